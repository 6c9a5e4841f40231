"""``graft dataset split|dedup|mix|stats|diff``: data sets on this machine, by the library the API uses.

Nothing is sent anywhere, except by ``stats``, which asks the server to count tokens where one is named.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from graftwork.cli.connection import connect, existing_file
from graftwork.cli.dataset import base_here, histogram
from graftwork.cli.files import write_new
from graftwork.cli.output import put, put_json, say
from graftwork.core.errors import InvalidData, InvalidRequest, Unauthorized

Out = Annotated[str, Parameter(name=["--output", "-o"])]
_LISTED = 20


def split(
    file: str,
    /,
    *,
    valid: float = 0.1,
    test: float = 0.0,
    seed: int = 0,
    near: float = 0.8,
    output: Annotated[str | None, Parameter(name=["--output", "-o"])] = None,
    json: bool = False,
) -> int:
    """Divide a data set into a training part and held-out parts that know nothing of each other.

    Rows that are near duplicates stay together; classes are spread in proportion. Writes
    `NAME.train.jsonl`, `NAME.valid.jsonl` and, if asked for, `NAME.test.jsonl`.

    Parameters
    ----------
    file:
        Any data set that `graft dataset check` reads.
    valid:
        Share of the rows held out for validation.
    test:
        Share of the rows held out for a test.
    near:
        Overlap of texts from which rows stay together; 1 keeps only equal texts together.
    output:
        Folder and beginning of the names; by default the file's own.
    """
    from graftwork.data.workbench import split_file

    path = existing_file(file)
    start = output or str(path.with_suffix(""))
    made = _told(lambda: split_file(_named(path), {"valid": valid, "test": test}, seed, near))
    written = {part: Path(f"{start}.{part}.jsonl") for part in made.files}
    write_new({written[part]: data for part, data in made.files.items()})
    if json:
        put_json({**made.report, "files": {part: str(name) for part, name in written.items()}})
        return 0
    for part, name in written.items():
        classes = made.report["classes"][part]
        spread = ", ".join(f"{label} {count}" for label, count in sorted(classes.items())[:_LISTED])
        say(f"  {part}: {made.report['parts'][part]:,} rows ({spread})")
        put(str(name))
    say(f"  {made.report['groups']} groups of like rows were kept together.")
    return 0


def dedup(file: str, /, *, output: Out, near: float = 0.8, exact: bool = False, json: bool = False) -> int:
    """Write a data set without rows that stood before: the same, or nearly the same.

    Parameters
    ----------
    output:
        The new file.
    near:
        Overlap of texts (of their 5-character pieces) from which a row counts as a duplicate.
    exact:
        Drop only rows that are equal but for case and white space.
    """
    from graftwork.data.workbench import dedup_file

    path = existing_file(file)
    made = _told(lambda: dedup_file(_named(path), None if exact else near))
    write_new({Path(output): made.files["rows"]})
    report = made.report
    if json:
        put_json({**report, "file": output})
        return 0
    for one in report["dropped"]:
        put(f"{path}:{one['line']}: {one['how']} duplicate of line {one['of']} ({one['similarity']:.2f})")
    say(
        f"  {report['kept']:,} of {report['rows']:,} rows kept in {output}; dropped: "
        f"{report['exact']} exact, {report['loose']} but for case and space, {report['near']} near"
    )
    return 0


def mix(
    *files: str,
    output: Out,
    weights: str | None = None,
    rows: int | None = None,
    seed: int = 0,
    json: bool = False,
) -> int:
    """Write one data set out of several, each by its weight, shuffled.

    Parameters
    ----------
    files:
        Data sets of one kind.
    output:
        The new file.
    weights:
        One number a file, such as 3,1,0.5; without it all weigh the same.
    rows:
        Rows of the mixture; scarce ones are repeated. Without it no row is, and as many come out as can.
    """
    from graftwork.data.workbench import mix_files

    paths = [existing_file(file) for file in files]
    if not paths:
        raise InvalidRequest("There is nothing to mix.", fix="Name two files or more.", code="invalid_value")
    sources = list(zip(map(_named, paths), _weights(weights, len(paths)), strict=True))
    made = _told(lambda: mix_files(sources, seed, rows))
    write_new({Path(output): made.files["rows"]})
    if json:
        put_json({**made.report, "file": output})
        return 0
    for source in made.report["sources"]:
        times = f", each up to {source['repeated']} times" if source["repeated"] > 1 else ""
        say(f"  {source['name']}: {source['taken']:,} rows out of {source['rows']:,}{times}")
    put(output)
    return 0


def stats(file: str, /, *, base: str = "seedling", near: float = 0.8, json: bool = False) -> int:
    """A data set in numbers: lengths, tokens, roles, labels, repetitions, contradictions.

    Parameters
    ----------
    base:
        The base model whose tokenizer and template count the tokens.
    near:
        Overlap of texts from which rows count as near duplicates.
    """
    found = _stats(existing_file(file), base, near)
    if json:
        put_json(found)
        return 0
    for line in _lines(found):
        put(line)
    return 0


def diff(
    before: str, after: str, /, *, near: float = 0.8, exit_code: bool = False, json: bool = False
) -> int:
    """What became of the rows of one data set in another: removed, added, changed.

    Parameters
    ----------
    near:
        Overlap of texts from which a row counts as changed, not as another one.
    exit_code:
        Exit with 1 when they differ.
    """
    from graftwork.data.workbench import diff_files

    one, two = existing_file(before), existing_file(after)
    found = _told(lambda: diff_files(_named(one), _named(two), near))
    code = 1 if exit_code and not found["equal"] else 0
    if json:
        put_json(found)
        return code
    for line in found["removed"]:
        put(f"- {one}:{line}")
    for change in found["changed"]:
        what = ", ".join(change["fields"])
        put(f"~ {one}:{change['before']} {two}:{change['after']} {what} ({change['similarity']:.2f})")
    for line in found["added"]:
        put(f"+ {two}:{line}")
    say(
        f"  {found['same']:,} rows the same, {len(found['changed'])} changed, {len(found['added'])} added, "
        f"{len(found['removed'])} removed"
    )
    return code


def _stats(path: Path, base: str, near: float) -> dict[str, Any]:
    try:
        server = connect()
    except Unauthorized:
        return _here(path, base, near)
    return server.send("/api/datasets/stats", path, model=base, near=str(near))


def _here(path: Path, base: str, near: float) -> dict[str, Any]:
    from graftwork.data.workbench import stats_of

    renderer, context = base_here(base)
    return stats_of(_named(path), renderer, context, near)


def _lines(found: dict[str, Any]) -> list[str]:
    """Numbers for people, one a line."""
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in found["kinds"].items())
    lines = [f"rows: {kinds or 0} ({found['format']})"]
    tokens = found["tokens"]
    if tokens:
        lines.append(f"tokens: {tokens['tokens']:,}, of them {tokens['labelled']:,} carry loss")
        lines.append(f"longest row: {tokens['longest']:,} tokens {histogram(found['lengths'])}")
    for name in ("characters", "answers", "messages", "turns"):
        spread = found[name]
        if spread:
            lines.append(
                f"{name}: {spread['least']} to {spread['most']}, median {spread['median']}, "
                f"19 of 20 up to {spread['p95']}, mean {spread['mean']:g}"
            )
    if found["roles"]:
        lines.append("roles: " + ", ".join(f"{role} {count:,}" for role, count in found["roles"].items()))
        lines.append(f"system messages: {found['systems']} different, {found['without_system']} rows without")
    if found["tools"]:
        calls = ", ".join(f"{name} {count}" for name, count in found["calls"].items())
        lines.append(f"tools: {found['tools']} rows; calls: {calls or 'none'}")
    if found["labels"]:
        labels = ", ".join(f"{label} {count}" for label, count in list(found["labels"].items())[:_LISTED])
        lines.append(f"labels: {labels}; least to most {found['balance']:.2f}")
    lines.append(f"duplicates: {found['duplicates']} exact, {found['near']} near")
    for conflict in found["conflicts"]:
        where = ", ".join(map(str, conflict["lines"]))
        lines.append(f"conflict: {conflict['answers']} answers to the same question in {where}")
    lines += [f"finding: {code} {count} times" for code, count in found["findings"].items()]
    return lines


def _named(path: Path) -> Any:
    from graftwork.data.workbench import Named

    return Named(str(path), path.read_bytes())


def _told(work: Any) -> Any:
    """The result; every finding of files that are refused goes to stdout, as ``graft dataset check`` does."""
    try:
        return work()
    except InvalidData as error:
        from graftwork.cli.dataset import complain

        findings = error.details.get("findings", [])
        for name in dict.fromkeys(finding["file"] for finding in findings):
            complain({"findings": [one for one in findings if one["file"] == name]}, Path(name))
        raise InvalidData(error.message.splitlines()[0], fix=error.fix, code=error.code) from error


def _weights(text: str | None, count: int) -> list[float]:
    try:
        weights = [1.0] * count if text is None else [float(part) for part in text.split(",")]
    except ValueError:
        weights = []
    if len(weights) != count:
        raise InvalidRequest(
            f"--weights {text!r} is not {count} numbers.",
            fix="Give one number for each file, separated by commas.",
            code="invalid_value",
        )
    return weights
