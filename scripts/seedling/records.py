"""Synthetic chat turns, part two: records, questions about a text, labels, memory, tool calls."""

from __future__ import annotations

import json
import random

from turns import Message, Turns, chat, code, invented, sentence, thing
from words import ADJECTIVES, FIELDS, KINDS, NAMES, NOUNS, TIMES, TOWNS

SYNTAXES = ("lines", "json", "compact", "equals", "prose", "csv", "angle")


def record(rng: random.Random, low: int = 2, high: int = 5) -> dict[str, str]:
    """A random record: field names to values."""
    fields = [f if rng.random() < 0.85 else invented(rng) for f in rng.sample(FIELDS, rng.randint(low, high))]
    made: dict[str, str] = {}
    for field in fields:
        value = thing(rng)
        if field in KINDS and rng.random() < 0.5:
            value = rng.choice(KINDS[field])
        elif field in ("age", "weight", "height", "count", "price", "page", "year", "port"):
            value = str(rng.randint(1, 2000))
        made[field] = value
    return made


def written(rec: dict[str, str], syntax: str) -> str:
    """The record in one of the syntaxes."""
    if syntax == "lines":
        return "\n".join(f"{k}: {v}" for k, v in rec.items())
    if syntax == "json":
        return json.dumps(rec)
    if syntax == "compact":
        return json.dumps(rec, separators=(",", ":"))
    if syntax == "equals":
        return " ".join(f'{k}="{v}"' for k, v in rec.items())
    if syntax == "csv":
        return ",".join(rec) + "\n" + ",".join(rec.values())
    if syntax == "angle":
        return "".join(f"<{k}>{v}</{k}>" for k, v in rec.items())
    return ", ".join(f"the {k} is {v}" for k, v in rec.items())


def field_of(rng: random.Random) -> Turns:
    """Extract one field of a record."""
    rec = record(rng)
    field = rng.choice(list(rec))
    text = written(rec, rng.choice(SYNTAXES))
    ask = rng.choice(
        [f"What is the {field}?", f"Extract the {field}.", f"Give only the {field}.", f"{field}?"]
    )
    if rng.random() < 0.5:
        return chat(f"{text}\n{ask}", rec[field])
    return chat(f"{ask}\n{text}", rec[field])


def convert(rng: random.Random) -> Turns:
    """Write a record in another syntax."""
    rec = record(rng)
    source, target = rng.sample(SYNTAXES, 2)
    names = {
        "lines": "key: value lines",
        "json": "JSON",
        "compact": "compact JSON",
        "equals": "key=value pairs",
        "csv": "CSV",
        "angle": "tags",
        "prose": "a sentence",
    }
    ask = rng.choice([f"Convert to {names[target]}:", f"Write this as {names[target]}:"])
    return chat(f"{ask}\n{written(rec, source)}", written(rec, target))


def facts(rng: random.Random) -> tuple[str, dict[str, str]]:
    """A sentence with facts in it, and the facts."""
    rec = {
        "name": rng.choice(NAMES),
        "town": rng.choice(TOWNS),
        "count": str(rng.randint(2, 40)),
        "colour": rng.choice(KINDS["colour"]),
        "item": rng.choice(KINDS["fruit"] + KINDS["clothing"] + KINDS["tool"]),
        "when": rng.choice(TIMES),
    }
    shapes = [
        "{name} from {town} bought {count} {colour} {item}s {when}.",
        "In {town}, {name} sold {count} {item}s, all {colour}, {when}.",
        "{when}, {name} went to {town} and saw {count} {colour} {item}s.",
        "There were {count} {colour} {item}s in {town} {when}, says {name}.",
        "Dear {name}, we sent {count} {item}s ({colour}) to {town} {when}.",
    ]
    text = rng.choice(shapes).format(**rec)
    return text[0].upper() + text[1:], rec


def facts_to_json(rng: random.Random) -> Turns:
    """Pull named facts out of a sentence into JSON or lines."""
    text, rec = facts(rng)
    fields = rng.sample(list(rec), rng.randint(1, 4))
    syntax, name = rng.choice([("json", "JSON"), ("compact", "compact JSON"), ("lines", "lines")])
    answer = written({f: rec[f] for f in fields}, syntax)
    ask = f"Give {', '.join(fields)} as {name}."
    if rng.random() < 0.5:
        return [{"role": "system", "content": ask}, *chat(text, answer)]
    return chat(f"{ask}\n{text}", answer)


def ask_facts(rng: random.Random) -> Turns:
    """Questions about a short text, sometimes two in a row."""
    text, rec = facts(rng)
    if rng.random() < 0.5:
        text = f"{sentence(rng)}. {text} {sentence(rng)}."
    asks = {
        "name": "Who is it about?",
        "town": "Which town is it?",
        "count": "How many were there?",
        "colour": "Which colour were they?",
        "item": "What were they?",
        "when": "When was it?",
    }
    first, second = rng.sample(list(rec), 2)
    turns = chat(f"{text} {asks[first]}", rec[first])
    return turns + chat(asks[second], rec[second]) if rng.random() < 0.4 else turns


def label_by_definition(rng: random.Random) -> Turns:
    """Labels are defined in the prompt by keywords; the text names one of the keywords."""
    labels = [rng.choice([invented, lambda r: r.choice(NOUNS), code])(rng) for _ in range(rng.randint(2, 4))]
    pool = rng.sample(NOUNS, 3 * len(labels))
    keys = {label: pool[3 * i : 3 * i + 3] for i, label in enumerate(labels)}
    label = rng.choice(list(keys))
    key = rng.choice(keys[label])
    rules = "\n".join(f"{name}: {', '.join(words)}" for name, words in keys.items())
    text = rng.choice(
        [
            f"{rng.choice(NAMES)} asks about the {key} in {rng.choice(TOWNS)}.",
            f"My {key} is {rng.choice(ADJECTIVES)}.",
            f"I have a {rng.choice(ADJECTIVES)} {key} {rng.choice(TIMES)}.",
            f"Please look at the {key}, it is {rng.choice(ADJECTIVES)}.",
        ]
    )
    if rng.random() < 0.5:
        return [{"role": "system", "content": f"Answer with the right label.\n{rules}"}, *chat(text, label)]
    return chat(f"{rules}\nWhich label fits? {text}", label)


def few_shot(rng: random.Random) -> Turns:
    """A pattern shown by examples in the prompt, to be used once more."""
    shape = rng.choice(["{a} -> {b}", "{a} = {b}", "in: {a} out: {b}", "{a}: {b}", '"{a}" "{b}"'])
    kinds = rng.sample(list(KINDS), 3)
    tags = {kind: rng.choice([kind, invented(rng), code(rng)]) for kind in kinds}
    rows = [(word, tags[kind]) for kind in kinds for word in rng.sample(KINDS[kind], 2)]
    rng.shuffle(rows)
    kind = rng.choice(kinds)
    asked, answer = (rng.choice(KINDS[kind]), tags[kind]) if rng.random() < 0.5 else rng.choice(rows)
    shown = "\n".join(shape.format(a=a, b=b) for a, b in rows)
    return chat(f"{shown}\n{shape.format(a=asked, b='?')}", answer)


def template_fill(rng: random.Random) -> Turns:
    """Fill values into a template that stands in the prompt."""
    rec = record(rng, 2, 3)
    parts = [f"{thing(rng)} {{{field}}}" for field in rec]
    template = rng.choice([" ", ", ", " / "]).join(parts)
    answer = template
    for field, value in rec.items():
        answer = answer.replace(f"{{{field}}}", value)
    return chat(f"Fill in: {template}\n{written(rec, rng.choice(['lines', 'compact', 'equals']))}", answer)


def memory(rng: random.Random) -> Turns:
    """Something said in an earlier turn is asked for later."""
    field, value = rng.choice(FIELDS), thing(rng)
    turns = chat(f"My {field} is {value}.", f"I will remember that your {field} is {value}.")
    if rng.random() < 0.4:
        turns += chat(f"Repeat: {(word := thing(rng))}", word)
    return turns + chat(f"What is my {field}?", value)


def tool_call(rng: random.Random) -> list[Message]:
    """A tool is called with arguments copied from the question, and its result is told."""
    verb = rng.choice(["get", "look_up", "open", "count", "check"])
    what, field = rng.choice(NOUNS), rng.choice(FIELDS)
    name, value, result = f"{verb}_{what}", thing(rng), thing(rng)
    call = {"type": "function", "function": {"name": name, "arguments": {field: value}}}
    tool = {
        "type": "function",
        "function": {
            "name": name,
            "parameters": {"type": "object", "properties": {field: {"type": "string"}}, "required": [field]},
        },
    }
    words = verb.replace("_", " ")
    turns: list[Message] = [
        {"role": "tools", "content": [tool]},
        {"role": "user", "content": f"Please {words} the {what} with {field} {value}."},
        {"role": "assistant", "content": "", "tool_calls": [call]},
    ]
    if rng.random() < 0.7:
        turns.append({"role": "tool", "content": json.dumps({what: result})})
        turns.append({"role": "assistant", "content": f"The {what} is {result}."})
    return turns
