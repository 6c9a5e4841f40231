"""Synthetic chat turns, part one: talk, knowledge and plain text instructions.

Each maker takes a random generator and returns a list of messages. The turns teach the shape of a chat and
how to copy from the prompt; they never use the label formats of the example data sets.
"""

from __future__ import annotations

import random

from words import (
    ADJECTIVES,
    DAYS,
    DEFINITIONS,
    KINDS,
    MONTHS,
    NAMES,
    NOUNS,
    NUMBER_WORDS,
    OPPOSITES,
    PLACES,
    SYLLABLES,
    TIMES,
    TOWNS,
    VERBS,
)

Message = dict[str, object]
Turns = list[Message]


def chat(user: str, answer: str) -> Turns:
    """One question and one answer."""
    return [{"role": "user", "content": user}, {"role": "assistant", "content": answer}]


def invented(rng: random.Random) -> str:
    """A word that exists nowhere, so that it can only be copied."""
    return "".join(rng.choices(SYLLABLES, k=rng.randint(2, 4)))


def code(rng: random.Random) -> str:
    """A short code of letters and digits."""
    letters = "".join(rng.choices("ABCDEFGHJKLMNPRSTUVWXYZ", k=rng.randint(1, 3)))
    return f"{letters}{rng.choice(['-', ''])}{rng.randint(1, 9999)}"


def thing(rng: random.Random) -> str:
    """A word of any sort: a noun, a name, a town, an adjective, an invented word or a number."""
    pick = rng.random()
    if pick < 0.35:
        return rng.choice(NOUNS)
    if pick < 0.5:
        return rng.choice(NAMES)
    if pick < 0.65:
        return rng.choice(TOWNS)
    if pick < 0.75:
        return rng.choice(ADJECTIVES)
    if pick < 0.9:
        return invented(rng)
    return str(rng.randint(0, 999)) if rng.random() < 0.5 else code(rng)


def sentence(rng: random.Random) -> str:
    """A simple English sentence without its full stop."""
    name, job, mood = rng.choice(NAMES), rng.choice(KINDS["job"]), rng.choice(ADJECTIVES)
    who = rng.choice([name, f"The {job}", f"My {mood} friend"])
    what = rng.choice(["a", "the", "one", "this"]) + " "
    what += (rng.choice(ADJECTIVES) + " " if rng.random() < 0.6 else "") + rng.choice(NOUNS)
    tail = rng.choice(["", " " + rng.choice(PLACES), " " + rng.choice(TIMES), f" in {rng.choice(TOWNS)}"])
    tail += (
        f" for {rng.randint(2, 99)} {rng.choice(['coins', 'days', 'friends'])}" if rng.random() < 0.2 else ""
    )
    return f"{who} {rng.choice(VERBS)} {what}{tail}"


def greeting(rng: random.Random) -> Turns:
    """Hello, thanks, goodbye."""
    name = rng.choice(NAMES)
    options = [
        (
            ["Hello", "Hi", "Hello!", "Hi there", "Good morning", "Hey", "Good evening!"],
            "Hello! How can I help you?",
        ),
        (
            ["How are you?", "How are you today?", "How is it going?"],
            "I am well, thank you. How can I help you?",
        ),
        (["Thanks", "Thank you!", "Thank you very much.", "Many thanks!"], "You are welcome!"),
        (["Bye", "Goodbye!", "See you later.", "Good night."], "Goodbye!"),
        ([f"Hello, I am {name}.", f"Hi, my name is {name}."], f"Hello {name}! How can I help you?"),
        (
            ["Who are you?", "What are you?", "What is your name?", "Tell me about yourself."],
            "I am Seedling, a very small language model.",
        ),
        (["Can you help me?", "I need help.", "I have a question."], "Of course. What do you need?"),
    ]
    asked, answer = rng.choice(options)
    return chat(rng.choice(asked), answer)


def definition(rng: random.Random) -> Turns:
    """What does a word mean."""
    word, meaning = rng.choice(list(DEFINITIONS.items()))
    article = "an" if word[0] in "aeiou" else "a"
    ask = rng.choice(
        [f"What is {article} {word}?", f"Define {word}.", f"What does {word} mean?", f"Explain: {word}"]
    )
    return chat(ask, f"{article.capitalize()} {word} is {meaning}.")


def kind_of(rng: random.Random) -> Turns:
    """Which kind of thing a word names, by knowledge."""
    kind = rng.choice(list(KINDS))
    word = rng.choice(KINDS[kind])
    other = rng.choice([k for k in KINDS if k != kind])
    if rng.random() < 0.4:
        return chat(rng.choice([f"What kind of thing is {word}?", f"Kind of {word}?"]), kind)
    if rng.random() < 0.5:
        first, second = rng.sample([kind, other], 2)
        return chat(f"Is {word} a kind of {first} or a kind of {second}?", kind)
    asked = rng.choice([kind, other])
    return chat(f"Is {word} a kind of {asked}? Answer yes or no.", "yes" if word in KINDS[asked] else "no")


def calendar(rng: random.Random) -> Turns:
    """Days, months, numbers and opposites."""
    i, j = rng.randrange(7), rng.randrange(12)
    a, b = rng.choice(OPPOSITES).split()
    n = rng.randrange(12)
    pairs = [
        (f"Which day comes after {DAYS[i]}?", DAYS[(i + 1) % 7]),
        (f"Which day comes before {DAYS[i]}?", DAYS[(i - 1) % 7]),
        (f"Which month comes after {MONTHS[j]}?", MONTHS[(j + 1) % 12]),
        (f"Which month comes before {MONTHS[j]}?", MONTHS[(j - 1) % 12]),
        (f"Which month is number {j + 1}?", MONTHS[j]),
        (f"Which number is {MONTHS[j]}?", str(j + 1)),
        (f"What is the opposite of {a}?", b),
        (f"Write {NUMBER_WORDS[n]} as a number.", str(n)),
        (f"Write {n} as a word.", NUMBER_WORDS[n]),
        (f"What comes after {n}?", str(n + 1)),
    ]
    return chat(*rng.choice(pairs))


def arithmetic(rng: random.Random) -> Turns:
    """Very small sums and comparisons."""
    a, b = rng.randint(0, 20), rng.randint(0, 20)
    if rng.random() < 0.5:
        return chat(rng.choice([f"What is {a} + {b}?", f"{a} + {b} =", f"Add {a} and {b}."]), str(a + b))
    word, pick = rng.choice([("larger", max), ("smaller", min)])
    return chat(f"Which number is {word}, {a} or {b}?", str(pick(a, b)))


def repeat(rng: random.Random) -> Turns:
    """Copy a text exactly."""
    text = (
        sentence(rng) + "." if rng.random() < 0.4 else " ".join(thing(rng) for _ in range(rng.randint(1, 9)))
    )
    ask = rng.choice(["Repeat: ", "Say: ", "Copy this text: ", "Repeat after me: ", "Write exactly this: "])
    return chat(ask + text, text)


def quoted(rng: random.Random) -> Turns:
    """Copy into and out of quotes, brackets and other marks."""
    words = [thing(rng) for _ in range(rng.randint(1, 5))]
    name, mark = rng.choice(
        [
            ("double quotes", '"{}"'),
            ("single quotes", "'{}'"),
            ("brackets", "[{}]"),
            ("braces", "{{{}}}"),
            ("parentheses", "({})"),
            ("stars", "*{}*"),
        ]
    )
    marked = [mark.format(word) for word in words]
    if rng.random() < 0.5:
        return chat(f"Put each word in {name}: " + " ".join(words), " ".join(marked))
    return chat("Take the words out of their marks: " + " ".join(marked), " ".join(words))


def change_case(rng: random.Random) -> Turns:
    """Upper case, lower case, capitals."""
    text = " ".join(thing(rng) for _ in range(rng.randint(1, 5))) if rng.random() < 0.5 else sentence(rng)
    how, done = rng.choice(
        [("upper case", text.upper()), ("lower case", text.lower()), ("title case", text.title())]
    )
    return chat(rng.choice([f"Write in {how}: {text}", f"Change to {how}: {text}"]), done)


def listing(rng: random.Random) -> Turns:
    """Turn words into a list of some shape."""
    words = [thing(rng) for _ in range(rng.randint(2, 7))]
    shape, text = rng.choice(
        [
            ("a list with dashes", "\n".join(f"- {w}" for w in words)),
            ("a numbered list", "\n".join(f"{i}. {w}" for i, w in enumerate(words, 1))),
            ("one word per line", "\n".join(words)),
            ("a list with commas", ", ".join(words)),
            ("a JSON list", "[" + ", ".join(f'"{w}"' for w in words) + "]"),
            ("a list with bars", " | ".join(words)),
        ]
    )
    return chat(f"Write as {shape}: " + rng.choice([", ", " ", "; "]).join(words), text)


def choose_words(rng: random.Random) -> Turns:
    """First, last, n-th, count, reverse, sort."""
    words = [thing(rng) for _ in range(rng.randint(2, 6))]
    i = rng.randrange(len(words))
    rank = ["first", "second", "third", "fourth", "fifth", "sixth"][i]
    ask, answer = rng.choice(
        [
            (f"What is the {rank} word?", words[i]),
            ("What is the last word?", words[-1]),
            ("How many words are there?", str(len(words))),
            ("Reverse the order of the words:", " ".join(reversed(words))),
            ("Sort the words:", " ".join(sorted(words, key=str.lower))),
            (f"Which word comes after {words[i]}?", words[i + 1] if i + 1 < len(words) else "none"),
        ]
    )
    return chat(f"{ask} {' '.join(words)}", answer)


def replace_word(rng: random.Random) -> Turns:
    """Rewrite a sentence by one or two rules that stand in the prompt."""
    text = sentence(rng)
    words = text.split()
    old, new = rng.choice(words[1:]), thing(rng)
    ask, answer = rng.choice(
        [
            (f'Replace "{old}" with "{new}"', " ".join(new if w == old else w for w in words)),
            (f'Remove the word "{old}"', " ".join(w for w in words if w != old)),
            (f'Put "{new}" before "{old}"', " ".join(f"{new} {w}" if w == old else w for w in words)),
            (f'End the sentence with "{new}"', f"{text} {new}"),
            (f'Begin the sentence with "{new}"', f"{new} {text}"),
        ]
    )
    return chat(f"{ask}: {text}", answer)


def spell(rng: random.Random) -> Turns:
    """Letters of a word."""
    word = thing(rng)
    pairs = [
        (f"Spell {word}.", " ".join(word)),
        (f"What is the first letter of {word}?", word[0]),
        (f"What is the last letter of {word}?", word[-1]),
        (f"Put the letters together: {' '.join(word)}", word),
    ]
    return chat(*rng.choice(pairs))


def contains(rng: random.Random) -> Turns:
    """Whether a text has a word."""
    text = sentence(rng)
    word = rng.choice(text.split()) if rng.random() < 0.5 else rng.choice(NOUNS)
    answer = "yes" if word in text.split() else "no"
    return chat(f'Does this text contain the word "{word}"? {text}.', answer)


def drill(rng: random.Random) -> str:
    """Plain text in which a random run of words comes back: the purest exercise in copying."""
    words = [thing(rng) for _ in range(rng.randint(4, 16))]
    sep = rng.choice([" ", ", ", "\n", " / "])
    return (sep.join(words) + rng.choice([sep, "\n"])) * rng.randint(2, 4)
