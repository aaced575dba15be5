"""Files of labelled solutions: JSON lines or a JSON array, of one of the formats in `datasets`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from capo_client.cli.evaluate import values
from capo_client.cli.evaluate.datasets import FORMATS, Format
from capo_client.cli.evaluate.examples import LabelledExample
from capo_client.cli.evaluate.values import LabelError
from capo_wire.jsonlines import read_lines


class FormatError(Exception):
    """A file has an unknown format, or no entry that can be judged; the message says why."""


@dataclass(frozen=True, slots=True)
class LeftOut:
    """An entry that cannot be judged.

    Attributes:
        entry: its line, or its index in the array, from 1.
        reason: the kind of fault, by which entries are grouped.
        detail: the fault in this entry.
    """

    entry: int
    reason: str
    detail: str | None = None

    def __str__(self) -> str:
        return f"entry {self.entry}: {LabelError(self.reason, self.detail)}"


def read(path: Path) -> tuple[str, list[LabelledExample], list[LeftOut]]:
    """Read a file: the name of its format, the examples, and the entries left out.

    Raises:
        FormatError: the format is unknown, or all entries were left out.
    """
    entries = list(_entries(path))
    if not entries:
        raise FormatError(f"{path} is empty")
    objects = [(number, entry) for number, entry in entries if isinstance(entry, dict)]
    format_ = next((f for _, entry in objects for f in FORMATS if f.fields <= entry.keys()), None)
    if format_ is None:
        raise FormatError(_unknown(path, entries, objects))
    examples: list[LabelledExample] = []
    left_out: list[LeftOut] = []
    for number, entry in entries:
        try:
            if isinstance(entry, LabelError):
                raise entry
            examples.append(_example(format_, values.as_object(entry, "the entry"), number))
        except LabelError as error:
            left_out.append(LeftOut(number, error.reason, error.detail))
    if not examples:
        raise FormatError(
            f"{path}, as {format_.name}: none of {len(left_out)} entries can be judged: "
            f"{left_out[0]}"
        )
    return format_.name, examples, left_out


def _example(format_: Format, entry: Mapping[str, Any], number: int) -> LabelledExample:
    if missing := sorted(format_.fields - entry.keys()):
        raise LabelError(f"lacks {', '.join(missing)}")
    example = format_.read(entry)
    if not example.steps:
        raise LabelError("has no steps")
    if not all(step.strip() for step in example.steps):
        raise LabelError("has a blank step")
    contradiction = format_.contradiction(entry, example) if format_.contradiction else None
    return replace(example, entry=number, contradiction=contradiction)


def _unknown(path: Path, entries: Sequence[tuple[int, Any]], objects: Sequence[Any]) -> str:
    number, first = objects[0] if objects else entries[0]
    if isinstance(first, LabelError):
        return f"{path} is neither JSON lines nor a JSON array: entry {number}: {first}"
    if not objects:
        return f"{path}, entry {number} is not an object"
    known = "; ".join(f"{known.name} ({', '.join(sorted(known.fields))})" for known in FORMATS)
    return (
        f"{path}, entry {number}: unknown format with the fields {', '.join(sorted(first))}; "
        f"known formats: {known}"
    )


def _entries(path: Path) -> Iterator[tuple[int, Any]]:
    """Each entry with its number; a `LabelError` for a line that is not JSON."""
    try:
        lines = list(read_lines(path, errors="surrogateescape"))
    except (OSError, UnicodeDecodeError) as error:
        raise FormatError(f"{path} cannot be read: {error}") from None
    first = next((line for line in lines if line.strip()), "")
    if first.lstrip().startswith("["):
        whole = _json("".join(lines))
        if isinstance(whole, list):
            yield from enumerate(whole, start=1)
            return
        if isinstance(_json(first), LabelError):
            raise FormatError(
                f"{path} is neither JSON lines nor a JSON array: {whole.detail}"
            ) from None
    for number, line in enumerate(lines, start=1):
        if line.strip():
            yield number, _json(line)


def _json(text: str) -> Any:
    """The parsed JSON; a `LabelError` if the text is not JSON."""
    try:
        return json.loads(text.encode("utf-8", "surrogateescape"))
    except (ValueError, RecursionError) as error:
        return LabelError("is not JSON", str(error))
