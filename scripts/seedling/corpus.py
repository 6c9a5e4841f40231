"""The pre-training corpus: text that ships with Python, and synthetic chat turns.

Every document has an id; the hash of the id of its source decides whether it is held out, so a module's
docstrings, its comments and the questions about it are on the same side.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import inspect
import json
import random
import re
import sys
import sysconfig
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

import records
import turns
from transformers.utils.chat_template_utils import render_jinja_template

SEED = 20260
CHATS = 110_000
HELD_OUT_PERCENT = 3
PIECE = 2400
"""Characters after which a long document goes on in a new piece."""
SKIP = {"site-packages", "test", "tests", "idle_test", "__pycache__", "pydoc_data"}
IDLE_TEXTS = ("HISTORY", "CREDITS", "extend", "NEWS", "README", "NEWS2x", "TODO")
"""The texts of IDLE, in an order that no file system changes."""
TEMPLATE = Path(__file__).parents[2] / "src/graftwork/models/seedling/chat_template.jinja"
MAKERS: list[tuple[Callable[[random.Random], turns.Turns], int]] = [
    (turns.greeting, 2),
    (turns.definition, 3),
    (turns.kind_of, 4),
    (turns.calendar, 3),
    (turns.arithmetic, 2),
    (turns.repeat, 8),
    (turns.quoted, 6),
    (turns.change_case, 4),
    (turns.listing, 7),
    (turns.choose_words, 5),
    (turns.replace_word, 8),
    (turns.spell, 2),
    (turns.contains, 3),
    (records.field_of, 9),
    (records.convert, 9),
    (records.facts_to_json, 9),
    (records.ask_facts, 7),
    (records.label_by_definition, 10),
    (records.few_shot, 5),
    (records.template_fill, 4),
    (records.memory, 4),
    (records.tool_call, 3),
]


@dataclass(frozen=True)
class Document:
    """One text of the corpus."""

    id: str
    kind: str  # prose or chat
    split: str  # train or valid
    text: str


def split_of(source: str) -> str:
    """The side on which everything from this source stands."""
    digest = hashlib.sha256(source.encode()).digest()
    return "valid" if int.from_bytes(digest[:4], "big") % 100 < HELD_OUT_PERCENT else "train"


def pieces(text: str) -> Iterator[str]:
    """Cut a long text at blank lines into pieces of about PIECE characters."""
    piece: list[str] = []
    size = 0
    for paragraph in text.split("\n\n"):
        if piece and size + len(paragraph) > PIECE:
            yield "\n\n".join(piece)
            piece, size = [], 0
        piece.append(paragraph)
        size += len(paragraph)
    if piece:
        yield "\n\n".join(piece)


def modules() -> Iterator[tuple[str, str]]:
    """(dotted name, source) of every module of the standard library, without its tests."""
    root = Path(sysconfig.get_paths()["stdlib"])
    for path in sorted(root.rglob("*.py")):
        relative = path.relative_to(root)
        if SKIP & set(relative.parts):
            continue
        try:
            yield ".".join(relative.with_suffix("").parts), path.read_text("utf-8")
        except UnicodeDecodeError:
            continue


def docstrings(name: str, source: str) -> Iterator[tuple[str, str]]:
    """(qualified name, docstring) of a module and of what it defines."""
    try:
        tree = ast.parse(source)
    except SyntaxError:
        return

    def walk(node: ast.AST, qualified: str) -> Iterator[tuple[str, str]]:
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            doc = ast.get_docstring(node)
            if doc and len(doc) > 15:
                yield qualified, doc
        for child in ast.iter_child_nodes(node):
            named = isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
            yield from walk(child, f"{qualified}.{child.name}" if named else qualified)

    yield from walk(tree, name)


def comments(source: str) -> Iterator[str]:
    """Blocks of comment lines, read as paragraphs."""
    for block in re.findall(r"(?:^[ \t]*#[^\n]*\n)+", source, flags=re.MULTILINE):
        lines = [line.strip().lstrip("#!").removeprefix(" ") for line in block.splitlines()]
        text = "\n".join(lines).strip()
        if len(text) >= 80 and sum(c.isalpha() or c == " " for c in text) > 0.8 * len(text):
            yield text


def built_in_docs() -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """Docstrings of the modules that are written in C."""
    for name in [*sorted(sys.builtin_module_names), "math", "array", "select", "zlib", "unicodedata"]:
        module = importlib.import_module(name)
        found: list[tuple[str, str]] = []
        for key, value in sorted(vars(module).items()):
            if key.startswith("_") or not (inspect.isbuiltin(value) or inspect.isclass(value)):
                continue
            members = [(f"{name}.{key}", value)]
            if inspect.isclass(value):
                members += [(f"{name}.{key}.{k}", v) for k, v in sorted(vars(value).items()) if k[0] != "_"]
            found += [(q, doc) for q, v in members if len(doc := inspect.getdoc(v) or "") > 15]
        if found:
            yield name, found


def questions(docs: list[tuple[str, str]], rng: random.Random) -> Iterator[turns.Turns]:
    """Questions about what a function or a class does, answered by the first sentence of its docstring."""
    for qualified, doc in docs:
        first = " ".join(doc.split("\n\n")[0].split())
        first = re.split(r"(?<=[a-z]\.) ", first)[0]
        if not 20 <= len(first) <= 160 or "--" in first or ">>>" in first:
            continue
        short = ".".join(qualified.split(".")[-2:])
        ask = rng.choice(
            ["What does {} do?", "What is {} for?", "Explain {}.", "Describe {} in one sentence."]
        )
        yield turns.chat(ask.format(short), first)


@cache
def template() -> str:
    """The chat template that ships with the model."""
    return TEMPLATE.read_text("utf-8")


def render(messages: turns.Turns, rng: random.Random) -> str:
    """The text of a chat, sometimes with a system message in front."""
    tools = None
    if messages[0]["role"] == "tools":
        tools, messages = messages[0]["content"], messages[1:]
    elif messages[0]["role"] != "system" and rng.random() < 0.3:
        system = rng.choice(
            [
                "You are a helpful assistant.",
                "Answer shortly.",
                "You are a friendly assistant. Be brief.",
                f"You work for {rng.choice(turns.NAMES)} in {rng.choice(turns.TOWNS)}.",
                "Follow the instruction exactly.",
                "Answer with one line.",
            ]
        )
        messages = [{"role": "system", "content": system}, *messages]
    rendered, _ = render_jinja_template([messages], tools=tools, chat_template=template())
    return rendered[0]


def synthetic_chats(count: int) -> Iterator[Document]:
    """Chats from the makers; some go on for several turns; a few documents are plain copying drills."""
    rng = random.Random(SEED)
    makers, weights = zip(*MAKERS, strict=True)
    for number in range(count):
        if rng.random() < 0.06:
            text = turns.drill(rng)
            yield Document(f"chat/{number}", "chat", split_of(text), text)
            continue
        messages = rng.choices(makers, weights)[0](rng)
        while rng.random() < 0.25 and messages[0]["role"] == "user":
            more = rng.choices(makers, weights)[0](rng)
            messages += more if more[0]["role"] == "user" else []
        text = render(messages, rng)
        # by its text, so that equal chats stand on the same side
        yield Document(f"chat/{number}", "chat", split_of(text), text)


def library_documents() -> Iterator[Document]:
    """Prose from the standard library, and questions about it."""
    from pydoc_data.topics import topics

    rng = random.Random(SEED)
    sources = [(name, list(docstrings(name, text)), list(comments(text))) for name, text in modules()]
    sources += [(f"built-in {name}", docs, []) for name, docs in built_in_docs()]
    for name, docs, blocks in sources:
        parts = [f"{qualified}\n{doc}" for qualified, doc in docs] + blocks
        if not parts:
            continue
        split = split_of(name)
        for number, piece in enumerate(pieces("\n\n".join(parts))):
            yield Document(f"{name}/{number}", "prose", split, piece)
        for number, asked in enumerate(questions(docs, rng)):
            yield Document(f"{name}/question/{number}", "prose", split, render(asked, rng))
    root = Path(sysconfig.get_paths()["stdlib"])
    texts = [(f"topic {name}", text) for name, text in sorted(topics.items())]
    files = [root / "LICENSE.txt", *(root / "idlelib" / f"{name}.txt" for name in IDLE_TEXTS)]
    texts += [(path.name, path.read_text("utf-8", "replace")) for path in files]
    for name, text in texts:
        for number, piece in enumerate(pieces(text)):
            yield Document(f"{name}/{number}", "prose", split_of(name), piece)


def build(path: Path) -> str:
    """Write the corpus as JSONL; returns the sha256 of the file."""
    digest = hashlib.sha256()
    seen: set[str] = set()
    with path.open("wb") as out:
        for maker in (library_documents(), synthetic_chats(CHATS)):
            for document in maker:
                # modules repeat one another's words; such a text could stand on both sides of the split
                if document.kind == "prose" and document.text in seen:
                    continue
                seen.add(document.text)
                line = json.dumps(asdict(document), ensure_ascii=False).encode() + b"\n"
                digest.update(line)
                out.write(line)
    return digest.hexdigest()


def read(path: Path) -> list[Document]:
    """The corpus of an earlier build."""
    with path.open(encoding="utf-8") as lines:
        return [Document(**json.loads(line)) for line in lines]
