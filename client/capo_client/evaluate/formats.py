"""Data sets whose steps are labelled, each read into `Example`s; told apart by their fields.

| format           | fields                                                                      |
|------------------|-----------------------------------------------------------------------------|
| ProcessBench     | `problem`, `steps`, `label`: the first wrong step from 0, or -1             |
| BIG-Bench Mistake| `input`, `steps`, `mistake_index`: the first wrong step from 0, or null     |
| MR-GSM8K         | `question`, `model_output_steps`, `model_output_solution_correctness`,      |
|                  | `model_output_solution_first_error_step`: from 1, or "N/A"                  |
| PRM800K          | `question.problem`, `label.steps`: each with rated completions; -1 is wrong |
| ours             | `question`, `steps`, `wrong_steps`: all wrong steps, from 0                 |

Sources: arXiv 2412.06559 and 2311.08516, the repositories of MR-GSM8K (dvlab-research) and PRM800K
(openai).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_SEPARATOR = "\n\n"


class FormatError(Exception):
    """A file is of no known format, or an entry lacks something; the message says where."""


@dataclass(frozen=True, slots=True)
class Example:
    """A solution whose steps are labelled.

    `wrong`: for each step whether it is wrong; None where nobody looked (behind the first error,
    in most data sets).
    """

    question: str
    steps: tuple[str, ...]
    wrong: tuple[bool | None, ...]

    @property
    def first_error(self) -> int | None:
        """The first wrong step, or None for a solution without one."""
        return self.wrong.index(True) if True in self.wrong else None

    def rollout(self) -> dict[str, Any]:
        """As `POST /credit` takes it: the steps as they are, with blank lines between."""
        spans, at = [], 0
        for step in self.steps:
            spans.append((at, at + len(step)))
            at += len(step) + len(_SEPARATOR)
        return {
            "question": self.question, "response": _SEPARATOR.join(self.steps), "steps": spans,
        }  # fmt: skip


def read(path: Path) -> tuple[str, list[Example], int]:
    """The format's name, the examples, and how many were left out for a blank step or none.

    Raises:
        FormatError: the file cannot be read as any of the formats.
    """
    entries = list(_entries(path))
    if not entries:
        raise FormatError(f"{path} is empty")
    number, first = entries[0]
    format_ = next((each for each in _FORMATS if each.fields <= first.keys()), None)
    if format_ is None:
        known = "; ".join(f"{each.name} ({', '.join(sorted(each.fields))})" for each in _FORMATS)
        raise FormatError(
            f"{path}, entry {number}: its fields {', '.join(sorted(first))} are of no format that "
            f"is known: {known}"
        )
    found, left_out = [], 0
    for number, entry in entries:
        try:
            example = format_.read(entry)
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise FormatError(
                f"{path}, entry {number}, as {format_.name}: {type(error).__name__} {error}"
            ) from None
        if example.steps and all(step.strip() for step in example.steps):
            found.append(example)
        else:
            left_out += 1
    return format_.name, found, left_out


def _entries(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise FormatError(f"{path} cannot be read: {error}") from None
    try:
        if text.lstrip().startswith("["):
            loaded = list(enumerate(json.loads(text), start=1))
        else:
            lines = enumerate(text.split("\n"), start=1)
            loaded = [(number, json.loads(line)) for number, line in lines if line.strip()]
    except ValueError as error:
        raise FormatError(f"{path} is neither JSON lines nor a JSON array: {error}") from None
    for number, entry in loaded:
        if not isinstance(entry, dict):
            raise FormatError(f"{path}, entry {number} is not an object")
        yield number, entry


def _until_first(steps: Sequence[str], first: int | None) -> tuple[bool | None, ...]:
    """Labels where only the first wrong step is known."""
    if first is None:
        return (False,) * len(steps)
    if not 0 <= first < len(steps):
        raise ValueError(f"the first wrong step is {first}, but there are {len(steps)} steps")
    return (False,) * first + (True,) + (None,) * (len(steps) - first - 1)


def _process_bench(entry: Mapping[str, Any]) -> Example:
    steps, label = tuple(map(str, entry["steps"])), int(entry["label"])
    return Example(entry["problem"], steps, _until_first(steps, None if label < 0 else label))


def _big_bench(entry: Mapping[str, Any]) -> Example:
    steps = tuple(map(str, entry["steps"]))
    return Example(entry["input"], steps, _until_first(steps, entry["mistake_index"]))


def _mr_gsm8k(entry: Mapping[str, Any]) -> Example:
    said = entry["model_output_steps"]
    steps = tuple(s for s in said.split("\n") if s.strip()) if isinstance(said, str) else said
    right = str(entry["model_output_solution_correctness"]).lower() in ("correct", "true")
    first = None if right else int(entry["model_output_solution_first_error_step"]) - 1
    return Example(entry["question"], tuple(map(str, steps)), _until_first(steps, first))


def _prm800k(entry: Mapping[str, Any]) -> Example:
    steps: list[str] = []
    wrong: list[bool | None] = []
    for step in entry["label"]["steps"]:
        chosen, human = step.get("chosen_completion"), step.get("human_completion")
        if chosen is None and human is not None:
            steps.append(human["text"])
            wrong.append(False)
            continue
        completions = step.get("completions") or []
        if not completions:
            break
        taken = completions[chosen or 0]
        steps.append(taken["text"])
        wrong.append(None if taken["rating"] is None else taken["rating"] < 0)
        if chosen is None:
            break  # nobody went on from here
    return Example(entry["question"]["problem"], tuple(steps), tuple(wrong))


def _ours(entry: Mapping[str, Any]) -> Example:
    steps, named = tuple(map(str, entry["steps"])), set(entry["wrong_steps"])
    if unknown := sorted(named - set(range(len(steps)))):
        raise ValueError(f"wrong_steps names {unknown}, but there are {len(steps)} steps")
    return Example(entry["question"], steps, tuple(i in named for i in range(len(steps))))


@dataclass(frozen=True, slots=True)
class _Format:
    name: str
    fields: frozenset[str]
    read: Callable[[Mapping[str, Any]], Example]


_FORMATS = (
    _Format("ProcessBench", frozenset({"problem", "steps", "label"}), _process_bench),
    _Format("BIG-Bench Mistake", frozenset({"input", "steps", "mistake_index"}), _big_bench),
    _Format(
        "MR-GSM8K",
        frozenset({"question", "model_output_steps", "model_output_solution_first_error_step"}),
        _mr_gsm8k,
    ),
    _Format("PRM800K", frozenset({"question", "label"}), _prm800k),
    _Format("capo", frozenset({"question", "steps", "wrong_steps"}), _ours),
)
