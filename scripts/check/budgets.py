"""The style budgets of docs/architecture.md, checked over src/: exit 1 and a list when one is passed."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

FILE_SOFT, FILE_HARD = 400, 600
FUNCTION_SOFT, FUNCTION_HARD = 40, 80
CLASS_METHODS = 15
SOFT_SHARE = 0.05
"""At most this share of files and functions may lie between the soft and the hard limit."""
BROAD_PER_KLOC, REFLECTION_PER_KLOC = 0.4, 0.6
REFLECTION = {"getattr", "setattr", "hasattr"}


def functions(tree: ast.AST) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    """All functions of a module, nested ones included."""
    return [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]


def is_broad(handler: ast.ExceptHandler) -> bool:
    """Whether a handler catches everything."""
    names = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    return any(
        n is None or (isinstance(n, ast.Name) and n.id in {"Exception", "BaseException"}) for n in names
    )


def annotated(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """Whether every parameter (but self and cls) and the return value carry a type."""
    arguments = function.args
    plain = arguments.posonlyargs + arguments.args + arguments.kwonlyargs
    plain += [a for a in (arguments.vararg, arguments.kwarg) if a is not None]
    return function.returns is not None and all(a.annotation or a.arg in {"self", "cls"} for a in plain)


class Tally:
    """Counts over the tree, and the problems found."""

    def __init__(self) -> None:
        self.lines = self.broad = self.reflection = 0
        self.soft_files: list[str] = []
        self.soft_functions: list[str] = []
        self.files = self.functions = 0
        self.problems: list[str] = []

    def file(self, path: Path) -> None:
        """Add one module."""
        text = path.read_text()
        tree = ast.parse(text)
        length = text.count("\n")
        self.files += 1
        self.lines += length
        if length > FILE_HARD:
            self.problems.append(f"{path}: {length} lines, at most {FILE_HARD}")
        elif length > FILE_SOFT:
            self.soft_files.append(f"{path}: {length} lines")
        for function in functions(tree):
            self.function(path, function)
        for node in ast.walk(tree):
            self.node(path, node)

    def function(self, path: Path, function: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        """Add one function."""
        self.functions += 1
        length = (function.end_lineno or function.lineno) - function.lineno + 1
        where = f"{path}:{function.lineno} {function.name}"
        if length > FUNCTION_HARD:
            self.problems.append(f"{where}: {length} lines, at most {FUNCTION_HARD}")
        elif length > FUNCTION_SOFT:
            self.soft_functions.append(f"{where}: {length} lines")
        if not annotated(function):
            self.problems.append(f"{where}: not fully annotated")

    def node(self, path: Path, node: ast.AST) -> None:
        """Add one syntax node."""
        if isinstance(node, ast.ClassDef):
            methods = sum(isinstance(b, ast.FunctionDef | ast.AsyncFunctionDef) for b in node.body)
            bases = {b.id for b in node.bases if isinstance(b, ast.Name)}
            if methods > CLASS_METHODS and "Protocol" not in bases:
                self.problems.append(
                    f"{path}:{node.lineno} {node.name}: {methods} methods, at most {CLASS_METHODS}"
                )
        elif isinstance(node, ast.ExceptHandler):
            self.broad += is_broad(node)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            self.reflection += node.func.id in REFLECTION

    def finish(self) -> None:
        """Check the rates."""
        kloc = self.lines / 1000
        for count, budget, name in (
            (self.broad, BROAD_PER_KLOC, "broad excepts"),
            (self.reflection, REFLECTION_PER_KLOC, "getattr/setattr/hasattr calls"),
        ):
            if count > max(1, budget * kloc):
                self.problems.append(f"{count} {name} in {kloc:.1f} kloc, at most {budget} per kloc")
        for soft, total, name in (
            (self.soft_files, self.files, f"files over {FILE_SOFT} lines"),
            (self.soft_functions, self.functions, f"functions over {FUNCTION_SOFT} lines"),
        ):
            if len(soft) > SOFT_SHARE * total:
                self.problems.append(f"{len(soft)} of {total} are {name}, at most {SOFT_SHARE:.0%}:")
                self.problems.extend(f"    {line}" for line in soft)


def main() -> int:
    """Check ``src/`` and print what is over budget."""
    tally = Tally()
    for path in sorted(Path("src").rglob("*.py")):
        tally.file(path)
    tally.finish()
    for problem in tally.problems:
        print(problem)
    print(f"budgets: {tally.files} files, {tally.lines / 1000:.1f} kloc, {len(tally.problems)} problems")
    return 1 if tally.problems else 0


if __name__ == "__main__":
    sys.exit(main())
