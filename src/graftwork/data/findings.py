"""What can be wrong with a data file: every finding's code, meaning, fix and severity, in one table.

The codes are part of the public API. ``docs/datasets.md`` holds the table in words; a test compares them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple

Severity = Literal["error", "warning"]
Unit = Literal["line", "row"]

Note = Callable[[str, str, str | None], None]
"""Reports on one row: (code, what is wrong there, field path or None for the row as a whole)."""

MAX_FINDINGS = 10_000
"""More than this many findings are counted but not kept: the file is of another kind altogether."""


class Known(NamedTuple):
    """What the table says of a code."""

    meaning: str
    fix: str
    severity: Severity = "error"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One problem of a file.

    Attributes:
        line: 1-based number of the line (JSON lines) or row (JSON, CSV, Parquet), see ``unit``; None: the
        whole file. field: path such as ``messages[2].content``; None: the whole row. code: key of
        ``FINDINGS``. message: what is wrong here, one sentence. fix: what to do about it. severity: a file
        with an error is refused, one with warnings only is accepted.
    """

    line: int | None
    field: str | None
    code: str
    message: str
    fix: str
    severity: Severity
    unit: Unit = "line"

    @property
    def where(self) -> str:
        """``line 3, messages[2].content`` or ``file``."""
        place = "file" if self.line is None else f"{self.unit} {self.line}"
        return f"{place}, {self.field}" if self.field else place

    def __str__(self) -> str:
        return f"{self.where}: {self.message} {self.fix} [{self.code}]"

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


class Findings:
    """Collects the findings of one file, in the order of the file."""

    def __init__(self, unit: Unit = "line") -> None:
        self.unit: Unit = unit
        self.items: list[Finding] = []
        self.total = 0
        self.bad: set[int] = set()
        """Lines with an error: their rows are not used."""

    def add(self, code: str, message: str, *, line: int | None = None, field: str | None = None) -> None:
        """Note a finding; its fix and severity come from the table."""
        self.total += 1
        known = FINDINGS[code]
        if line is not None and known.severity == "error":
            self.bad.add(line)
        if len(self.items) < MAX_FINDINGS:
            self.items.append(
                Finding(
                    line=line,
                    field=field,
                    code=code,
                    message=message,
                    fix=known.fix,
                    severity=known.severity,
                    unit=self.unit,
                )
            )

    def at(self, line: int) -> Note:
        """A function that notes findings of one line."""

        def note(code: str, message: str, field: str | None = None) -> None:
            self.add(code, message, line=line, field=field)

        return note

    def finish(self) -> tuple[Finding, ...]:
        """All findings, by line; those of the whole file first."""
        if self.total > len(self.items):
            more = self.total - MAX_FINDINGS
            self.add_over(f"{more} more findings are not listed.")
        return tuple(sorted(self.items, key=lambda finding: finding.line or 0))

    def add_over(self, message: str) -> None:
        """Note that the list is cut, past the limit."""
        known = FINDINGS["too_many_findings"]
        self.items.append(
            Finding(
                line=None,
                field=None,
                code="too_many_findings",
                message=message,
                fix=known.fix,
                severity=known.severity,
                unit=self.unit,
            )
        )


FINDINGS: dict[str, Known] = {
    # the file
    "file_too_large": Known("The file is larger than the limit.", "Split it, or train on a part of it."),
    "empty_file": Known("The file holds no rows.", "Write one example per row."),
    "unknown_container": Known(
        "The file is neither JSON lines, JSON, CSV nor Parquet.",
        "Save it as JSON lines: one JSON object a line.",
    ),
    "unknown_format": Known(
        "The rows are of no known format.",
        'Use {"messages": [...]}, {"prompt", "completion"} or another format of docs/datasets.md.',
    ),
    "ambiguous_format": Known(
        "Rows fit two formats at once.", "Keep the fields of one format and remove those of the other."
    ),
    "mixed_formats": Known(
        "A row has another format than most of the file.", "Write all rows in one format, or split the file."
    ),
    "method_mismatch": Known(
        "The rows are of a format that the method cannot learn from.",
        "Give rows as the method takes them (docs/methods.md), or choose the method for these rows.",
    ),
    "too_few_rows": Known(
        "A training file needs at least 10 rows.", "Add examples; 50 to 100 are a good start."
    ),
    "byte_order_mark": Known(
        "The file begins with a byte order mark.",
        "Save it as UTF-8 without BOM; it was read anyway.",
        "warning",
    ),
    "too_many_findings": Known(
        "The list of findings was cut.", "Mend those listed, then check the file again.", "warning"
    ),
    "chat_template_missing": Known(
        "The base model has no chat template, and the rows are chats.",
        "Choose a base model with a chat template, or give prompt/completion rows.",
    ),
    # lines and containers
    "invalid_utf8": Known("Bytes that are not UTF-8.", "Save the file as UTF-8."),
    "invalid_json": Known("The line is not JSON.", "Write each row as one complete JSON object on one line."),
    "truncated_last_line": Known(
        "The file ends in the middle of a row.", "Write or upload the file again; its end is missing."
    ),
    "duplicate_key": Known(
        "An object has the same key twice.", "Keep one of them: readers disagree which counts."
    ),
    "nul_character": Known("A NUL character (\\u0000).", "Remove it; it is mostly a sign of broken text."),
    "lone_surrogate": Known(
        "Half of a surrogate pair (\\ud800 to \\udfff) that is no character.",
        "Write the character itself in UTF-8, or both halves.",
    ),
    "nonfinite_number": Known(
        "NaN, Infinity, or a number too large.", "Use an ordinary number, a string or null."
    ),
    "not_an_object": Known("The row is not a JSON object.", 'Write an object, such as {"messages": [...]}.'),
    "line_too_long": Known(
        "The row is longer than 1 MiB.", "Shorten or split it: no model reads that much at once."
    ),
    "too_deep": Known("Values are nested more than 32 deep.", "Flatten the row; text belongs into strings."),
    "blank_line": Known("A line without a row.", "Remove it; it was skipped.", "warning"),
    "json_root_invalid": Known(
        'A JSON file must be an array of rows, or {"data": [...]}.', "Wrap the rows into an array."
    ),
    "csv_header_missing": Known(
        "The CSV file has no usable header.",
        "Name the columns in the first row, for example: prompt,completion.",
    ),
    "csv_row_width": Known(
        "A CSV row has more or fewer cells than the header.",
        "Quote cells that hold commas, quotes or line breaks.",
    ),
    "csv_malformed": Known(
        "The CSV cannot be read on.", "Check the quotes: one that is opened must be closed."
    ),
    "csv_cell_not_json": Known(
        "A cell that should hold JSON does not.", "Write messages and tools as JSON text in their cells."
    ),
    "parquet_unreadable": Known("The Parquet file is damaged.", "Write or upload it again."),
    "extra_field": Known("A field that the format does not know.", "Remove or rename it; mind its spelling."),
    "extra_column": Known("A column that the format does not know.", "Nothing: it was ignored.", "warning"),
    # chat
    "messages_missing": Known(
        "The row has no messages.", 'Add "messages": a list that ends with the assistant\'s answer.'
    ),
    "messages_not_a_list": Known(
        "messages is not a list.", "Make it a list of objects with role and content."
    ),
    "messages_empty": Known(
        "messages is empty.", "Add at least one user and one assistant message, or remove the row."
    ),
    "message_not_object": Known("A message is not an object.", 'Write {"role": ..., "content": ...}.'),
    "role_missing": Known("A message has no role.", "Add role: system, user, assistant or tool."),
    "role_unknown": Known("A role that does not exist.", "Use system, developer, user, assistant or tool."),
    "content_missing": Known(
        "A message has no content.", "Add content; only an assistant message with tool_calls may go without."
    ),
    "content_type": Known("Content is neither text nor text parts.", "Make it a string."),
    "content_part_unsupported": Known(
        "A content part is not text.", 'Use parts of the kind {"type": "text", "text": ...} only.'
    ),
    "content_empty": Known("Content is empty.", "Fill it in, or remove the message."),
    "weight_invalid": Known("weight is neither 0 nor 1.", "Use 0 (learn nothing from this message) or 1."),
    "weight_on_non_assistant": Known(
        "weight stands on a message that is not the assistant's.", "Remove it; only answers are learnt from."
    ),
    "all_weights_zero": Known(
        "Every assistant message has weight 0.", "Give weight 1 to one of them, or remove the row."
    ),
    "no_assistant_message": Known("The assistant never speaks.", "Add the answer to be learnt."),
    "last_message_not_assistant": Known(
        "The last message is not the assistant's.", "End with the answer, or remove what follows it."
    ),
    "system_not_first": Known(
        "A system message behind the first place.", "Put it first, or make it a user message."
    ),
    "consecutive_roles": Known(
        "Two messages of the same role in a row.", "Join them, unless they are meant so.", "warning"
    ),
    "name_invalid": Known(
        "name holds other characters than letters, digits, _ and -, or over 64.", "Rename it, or remove it."
    ),
    "parallel_tool_calls_invalid": Known("parallel_tool_calls is not true or false.", "Write true or false."),
    "function_call_deprecated": Known(
        "functions and function_call are not supported.", "Use tools and tool_calls instead."
    ),
    # tools
    "tools_malformed": Known(
        "The list of tools is not as the API takes it.",
        'Write [{"type": "function", "function": {"name": ..., "parameters": {...}}}].',
    ),
    "tools_missing": Known(
        "Tools are called that the row does not list.", "Add tools, so that the prompt shows them.", "warning"
    ),
    "tool_calls_malformed": Known(
        "A tool call is not as the API gives it.",
        'Write {"id": ..., "type": "function", "function": {"name": ..., "arguments": "..."}}.',
    ),
    "tool_calls_on_non_assistant": Known(
        "tool_calls stand on a message that is not the assistant's.", "Move them to an assistant message."
    ),
    "tool_call_arguments_not_json": Known(
        "The arguments of a tool call are not a JSON object in a string.", 'Write "{\\"key\\": ...}".'
    ),
    "tool_call_unknown_function": Known("A function is called that tools do not list.", "Add it to tools."),
    "tool_call_id_duplicate": Known("Two tool calls have the same id.", "Give each call its own id."),
    "tool_call_unanswered": Known(
        "A tool call is not answered by a tool message.",
        "Add a tool message with its tool_call_id right after.",
    ),
    "tool_call_id_missing": Known(
        "A tool message has no tool_call_id.", "Add the id of the call it answers."
    ),
    "tool_message_without_call": Known(
        "A tool message answers no call before it.",
        "Use the id of a call of the assistant message before it.",
    ),
    # other formats
    "prompt_missing": Known("The prompt is missing.", "Add prompt (or input, or instruction)."),
    "prompt_empty": Known("The prompt is empty.", "Fill it in, or remove the row."),
    "completion_missing": Known("The answer is missing.", "Add completion (or output)."),
    "completion_empty": Known("The answer is empty.", "Fill it in, or remove the row."),
    "text_empty": Known("text is empty.", "Fill it in, or remove the row."),
    "field_type": Known("A field is not a string.", "Make it a string."),
    "preference_malformed": Known(
        "A preference row lacks a prompt or one of its two answers.",
        "Give one prompt, and one assistant message for each answer.",
    ),
    "preference_same": Known("Both answers are the same.", "Remove the row: it says nothing."),
    "label_invalid": Known(
        "label is neither true nor false.", "Write true for a wanted answer, false for an unwanted one."
    ),
    "one_label": Known(
        "All answers are wanted, or all are unwanted: there is nothing to tell apart.",
        "Give rows of both labels.",
    ),
    # counted with the base model's tokenizer and template
    "template_error": Known(
        "The base model's chat template refuses the row.",
        "Write the conversation as the template expects it.",
    ),
    "template_not_prefix": Known(
        "The chat template rewrites earlier turns, so that it is unclear what carries loss.",
        "Give each row one assistant message, at its end.",
    ),
    "no_labelled_tokens": Known("No token of the row carries loss.", "Add an answer, or remove the row."),
    "over_length": Known(
        "The row is longer than max_length.", "Shorten it or raise max_length; its end is cut off.", "warning"
    ),
    "answer_cut_off": Known(
        "Beyond max_length lies the whole answer.",
        "Shorten the prompt or raise max_length: nothing is left to learn.",
    ),
    "control_token": Known(
        "Text holds a control token of the base model.", "Remove it, unless it is meant as one.", "warning"
    ),
    # rows among each other
    "duplicate_row": Known(
        "The same row stood before.", "Remove it, unless it should count twice.", "warning"
    ),
    "leak_into_validation": Known(
        "The row is in the training file too.",
        "Remove it from one of them: scores on it say nothing.",
        "warning",
    ),
    "validation_is_training": Known(
        "Every validation row is in the training file.", "Give validation rows that are not trained on."
    ),
}
"""Code to meaning, fix and severity."""
