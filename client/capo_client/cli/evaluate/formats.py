"""Data sets whose steps are labelled, each read into `Example`s; told apart by their fields.

| format           | fields                                                                      |
|------------------|-----------------------------------------------------------------------------|
| ProcessBench     | `problem`, `steps`, `label`: the first wrong step from 0, or -1             |
| BIG-Bench Mistake| `input`, `steps`, `mistake_index`: the first wrong step from 0, or null     |
| MR-GSM8K         | `question`, `model_output_steps`, `model_output_solution_correctness`,      |
|                  | `model_output_solution_first_error_step`: from 1, or "N/A"                  |
| PRM800K          | `question.problem`, `label.steps`: each with rated completions; -1 is wrong |
| ours             | `question`, `steps`, `wrong_steps`: all wrong steps, from 0                 |

An entry that does not say which steps are wrong is left out, with the reason. One whose labels
contradict each other is read, and marked.

Sources: arXiv 2412.06559 and 2311.08516, the repositories of MR-GSM8K (dvlab-research) and PRM800K
(openai).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from capo_client.cli.evaluate import values
from capo_client.cli.evaluate.values import LabelError
from capo_wire.jsonlines import read_lines

_SEPARATOR = "\n\n"


class FormatError(Exception):
    """A file is of no known format, or nothing of it can be judged; the message says why."""


@dataclass(frozen=True, slots=True)
class Example:
    """A solution whose steps are labelled.

    Attributes:
        question: what the solution answers.
        steps: its steps.
        wrong: for each step whether it is wrong; None where it is not labelled (after the first
            error, in most data sets).
        entry: where it is in the file: the line, or the place in the array, from 1.
        contradiction: what its labels say against each other, if they do.
    """

    question: str
    steps: tuple[str, ...]
    wrong: tuple[bool | None, ...]
    entry: int = field(default=0, compare=False)
    contradiction: str | None = field(default=None, compare=False)

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
            "question": self.question,
            "response": _SEPARATOR.join(self.steps),
            "steps": spans,
        }


@dataclass(frozen=True, slots=True)
class LeftOut:
    """An entry that cannot be judged. `entry`: its line or place, from 1; `reason`: of its kind."""

    entry: int
    reason: str
    detail: str | None = None

    def __str__(self) -> str:
        return f"entry {self.entry}: {LabelError(self.reason, self.detail)}"


def read(path: Path) -> tuple[str, list[Example], list[LeftOut]]:
    """The format's name, the examples, and what was left out.

    Raises:
        FormatError: the file cannot be read as any of the formats, or all of it was left out.
    """
    entries = list(_entries(path))
    if not entries:
        raise FormatError(f"{path} is empty")
    objects = [(number, entry) for number, entry in entries if isinstance(entry, dict)]
    format_ = next((f for _, entry in objects for f in _FORMATS if f.fields <= entry.keys()), None)
    if format_ is None:
        raise FormatError(_unknown(path, entries, objects))
    found: list[Example] = []
    left_out: list[LeftOut] = []
    for number, entry in entries:
        try:
            if isinstance(entry, LabelError):
                raise entry
            found.append(_example(format_, values.as_object(entry, "the entry"), number))
        except LabelError as error:
            left_out.append(LeftOut(number, error.reason, error.detail))
    if not found:
        raise FormatError(
            f"{path}, as {format_.name}: none of {len(left_out)} entries can be judged: "
            f"{left_out[0]}"
        )
    return format_.name, found, left_out


def _example(format_: _Format, entry: Mapping[str, Any], number: int) -> Example:
    if lacking := sorted(format_.fields - entry.keys()):
        raise LabelError(f"lacks {', '.join(lacking)}")
    read = format_.read(entry)
    if not read.steps:
        raise LabelError("has no steps")
    if not all(step.strip() for step in read.steps):
        raise LabelError("has a blank step")
    contradiction = format_.contradiction(entry, read) if format_.contradiction else None
    return Example(read.question, read.steps, read.wrong, number, contradiction)


def _unknown(path: Path, entries: Sequence[tuple[int, Any]], objects: Sequence[Any]) -> str:
    number, first = objects[0] if objects else entries[0]
    if isinstance(first, LabelError):
        return f"{path} is neither JSON lines nor a JSON array: entry {number}: {first}"
    if not objects:
        return f"{path}, entry {number} is not an object"
    known = "; ".join(f"{each.name} ({', '.join(sorted(each.fields))})" for each in _FORMATS)
    return (
        f"{path}, entry {number}: its fields {', '.join(sorted(first))} are of no format that "
        f"is known: {known}"
    )


def _entries(path: Path) -> Iterator[tuple[int, Any]]:
    """Each entry with its number; in place of a line that is not JSON, a `LabelError`."""
    try:
        lines = list(read_lines(path, errors="surrogateescape"))
    except (OSError, UnicodeDecodeError) as error:
        raise FormatError(f"{path} cannot be read: {error}") from None
    first = next((line for line in lines if line.strip()), "")
    if first.lstrip().startswith("["):
        found = _json("".join(lines))
        if isinstance(found, list):
            yield from enumerate(found, start=1)
            return
        if isinstance(_json(first), LabelError):
            raise FormatError(
                f"{path} is neither JSON lines nor a JSON array: {found.detail}"
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


def _until_first(steps: Sequence[str], first: int | None) -> tuple[bool | None, ...]:
    """Labels where only the first wrong step is known."""
    if first is None:
        return (False,) * len(steps)
    if not 0 <= first < len(steps):
        raise LabelError(
            "has a first wrong step that is none of its steps",
            f"the first wrong step is {first}, but there are {len(steps)} steps, from 0",
        )
    return (False,) * first + (True,) + (None,) * (len(steps) - first - 1)


def _process_bench(entry: Mapping[str, Any]) -> Example:
    steps, label = values.as_texts(entry, "steps"), values.as_index(entry, "label")
    if label is None:
        raise LabelError("has no label")
    first = None if label == -1 else label
    return Example(values.as_text(entry, "problem"), steps, _until_first(steps, first))


def _process_bench_contradicts(entry: Mapping[str, Any], example: Example) -> str | None:
    if example.first_error is None and values.as_flag(entry.get("final_answer_correct")) is False:
        return "the final answer is wrong, and no step is"
    return None


def _big_bench(entry: Mapping[str, Any]) -> Example:
    steps = values.as_texts(entry, "steps")
    first = values.as_index(entry, "mistake_index")
    return Example(values.as_text(entry, "input"), steps, _until_first(steps, first))


def _big_bench_contradicts(entry: Mapping[str, Any], example: Example) -> str | None:
    answer, target = entry.get("answer"), entry.get("target")
    if example.first_error is None and not values.same_answer(answer, target):
        return "the answer is not the target, and no step is wrong"
    return None


def _mr_gsm8k(entry: Mapping[str, Any]) -> Example:
    said = entry["model_output_steps"]
    if isinstance(said, str):
        steps = tuple(line for line in said.split("\n") if line.strip())
    else:
        steps = values.as_texts(entry, "model_output_steps")
    right = values.as_flag(entry.get("model_output_solution_correctness"))
    if right is None:
        raise LabelError("does not say whether the solution is correct")
    first = None
    if not right:
        first = values.as_index(entry, "model_output_solution_first_error_step")
        if first is None:
            raise LabelError("is wrong, and has no first wrong step")
    labels = _until_first(steps, None if first is None else first - 1)
    return Example(values.as_text(entry, "question"), steps, labels)


def _mr_gsm8k_contradicts(entry: Mapping[str, Any], example: Example) -> str | None:
    if example.first_error is not None:
        return None
    if values.index_or_none(entry["model_output_solution_first_error_step"]) is not None:
        return "the solution is correct, and has a first wrong step"
    if values.as_flag(entry.get("model_output_answer_correctness")) is False:
        return "the answer is wrong, and no step is"
    return None


def _prm800k(entry: Mapping[str, Any]) -> Example:
    question = values.as_object(entry["question"], "question")
    label = values.as_object(entry["label"], "label")
    if label.get("finish_reason") == "bad_problem":
        raise LabelError("has a bad problem, as its labeler says")
    steps: list[str] = []
    wrong: list[bool | None] = []
    for place, each in enumerate(values.as_list(label, "steps")):
        step = values.as_object(each, f"step {place}")
        chosen, human = values.as_index(step, "chosen_completion"), step.get("human_completion")
        if chosen is None and human is not None:
            human = {"text": human} if isinstance(human, str) else human
            steps.append(values.as_text(values.as_object(human, f"step {place}"), "text"))
            wrong.append(False)
            continue
        completions = values.as_list(step, "completions") if step.get("completions") else []
        if not completions:
            break
        if not 0 <= (chosen or 0) < len(completions):
            raise LabelError("has a chosen completion that is not there")
        taken = values.as_object(completions[chosen or 0], f"step {place}")
        rating = values.as_index(taken, "rating")
        if rating is None and True not in wrong:
            break  # from here on it is not known whether the solution is right
        if rating not in (None, -1, 0, 1):
            raise LabelError("has a rating that is none of -1, 0, 1")
        steps.append(values.as_text(taken, "text"))
        wrong.append(None if rating is None else rating < 0)
        if chosen is None:
            break  # the labeler did not go on from here
    return Example(values.as_text(question, "problem"), tuple(steps), tuple(wrong))


def _ours(entry: Mapping[str, Any]) -> Example:
    steps = values.as_texts(entry, "steps")
    named = [
        values.as_index({"wrong_steps": each}, "wrong_steps")
        for each in values.as_list(entry, "wrong_steps")
    ]
    if unknown := [step for step in named if step not in range(len(steps))]:
        raise LabelError(
            "has a wrong step that is none of its steps",
            f"wrong_steps names {unknown}, but there are {len(steps)} steps, from 0",
        )
    labels = tuple(place in named for place in range(len(steps)))
    return Example(values.as_text(entry, "question"), steps, labels)


@dataclass(frozen=True, slots=True)
class _Format:
    name: str
    fields: frozenset[str]
    read: Callable[[Mapping[str, Any]], Example]
    contradiction: Callable[[Mapping[str, Any], Example], str | None] | None = None


_FORMATS = (
    _Format(
        "ProcessBench",
        frozenset({"problem", "steps", "label"}),
        _process_bench,
        _process_bench_contradicts,
    ),
    _Format(
        "BIG-Bench Mistake",
        frozenset({"input", "steps", "mistake_index"}),
        _big_bench,
        _big_bench_contradicts,
    ),
    _Format(
        "MR-GSM8K",
        frozenset({"question", "model_output_steps", "model_output_solution_first_error_step"}),
        _mr_gsm8k,
        _mr_gsm8k_contradicts,
    ),
    _Format("PRM800K", frozenset({"question", "label"}), _prm800k),
    _Format("capo", frozenset({"question", "steps", "wrong_steps"}), _ours),
)
