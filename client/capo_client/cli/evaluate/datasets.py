"""Readers of data sets with labelled steps. A data set is recognised by its fields.

| format           | fields                                                                      |
|------------------|-----------------------------------------------------------------------------|
| ProcessBench     | `problem`, `steps`, `label`: the first wrong step from 0, or -1             |
| BIG-Bench Mistake| `input`, `steps`, `mistake_index`: the first wrong step from 0, or null     |
| MR-GSM8K         | `question`, `model_output_steps`, `model_output_solution_correctness`,      |
|                  | `model_output_solution_first_error_step`: from 1, or "N/A"                  |
| PRM800K          | `question.problem`, `label.steps`: each with rated completions; -1 is wrong |
| capo             | `question`, `steps`, `wrong_steps`: all wrong steps, from 0; of a           |
|                  | trajectory also `observations`: after each step a text, or null             |

An entry that does not say which steps are wrong is left out, with the reason. An entry with
contradictory labels is read, and marked.

Sources: arXiv 2412.06559 and 2311.08516, the repositories of MR-GSM8K (dvlab-research) and PRM800K
(openai).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from capo_client.cli.evaluate import values
from capo_client.cli.evaluate.examples import LabelledExample
from capo_client.cli.evaluate.values import LabelError


def _until_first(steps: Sequence[str], first: int | None) -> tuple[bool | None, ...]:
    """Labels where only the first wrong step is known: None for the steps after it."""
    if first is None:
        return (False,) * len(steps)
    if not 0 <= first < len(steps):
        raise LabelError(
            "has a first wrong step that does not exist",
            f"the first wrong step is {first}, but there are {len(steps)} steps, from 0",
        )
    return (False,) * first + (True,) + (None,) * (len(steps) - first - 1)


def _process_bench(entry: Mapping[str, Any]) -> LabelledExample:
    steps, label = values.as_texts(entry, "steps"), values.as_index(entry, "label")
    if label is None:
        raise LabelError("has no label")
    first = None if label == -1 else label
    return LabelledExample(values.as_text(entry, "problem"), steps, _until_first(steps, first))


def _process_bench_contradicts(entry: Mapping[str, Any], example: LabelledExample) -> str | None:
    if example.first_error is None and values.as_flag(entry.get("final_answer_correct")) is False:
        return "the final answer is wrong, and no step is"
    return None


def _big_bench(entry: Mapping[str, Any]) -> LabelledExample:
    steps = values.as_texts(entry, "steps")
    first = values.as_index(entry, "mistake_index")
    return LabelledExample(values.as_text(entry, "input"), steps, _until_first(steps, first))


def _big_bench_contradicts(entry: Mapping[str, Any], example: LabelledExample) -> str | None:
    answer, target = entry.get("answer"), entry.get("target")
    if example.first_error is None and not values.same_answer(answer, target):
        return "the answer is not the target, and no step is wrong"
    return None


def _mr_gsm8k(entry: Mapping[str, Any]) -> LabelledExample:
    raw_steps = entry["model_output_steps"]
    if isinstance(raw_steps, str):
        steps = tuple(line for line in raw_steps.split("\n") if line.strip())
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
    return LabelledExample(values.as_text(entry, "question"), steps, labels)


def _mr_gsm8k_contradicts(entry: Mapping[str, Any], example: LabelledExample) -> str | None:
    if example.first_error is not None:
        return None
    if values.index_or_none(entry["model_output_solution_first_error_step"]) is not None:
        return "the solution is correct, and has a first wrong step"
    if values.as_flag(entry.get("model_output_answer_correctness")) is False:
        return "the answer is wrong, and no step is"
    return None


def _prm800k(entry: Mapping[str, Any]) -> LabelledExample:
    question = values.as_object(entry["question"], "question")
    label = values.as_object(entry["label"], "label")
    if label.get("finish_reason") == "bad_problem":
        raise LabelError("has a problem that its labeler marked as bad")
    steps: list[str] = []
    wrong: list[bool | None] = []
    for index, entry_step in enumerate(values.as_list(label, "steps")):
        step = values.as_object(entry_step, f"step {index}")
        chosen, human = values.as_index(step, "chosen_completion"), step.get("human_completion")
        if chosen is None and human is not None:
            human = {"text": human} if isinstance(human, str) else human
            steps.append(values.as_text(values.as_object(human, f"step {index}"), "text"))
            wrong.append(False)
            continue
        completions = values.as_list(step, "completions") if step.get("completions") else []
        if not completions:
            break
        if not 0 <= (chosen or 0) < len(completions):
            raise LabelError("has a chosen completion that does not exist")
        completion = values.as_object(completions[chosen or 0], f"step {index}")
        rating = values.as_index(completion, "rating")
        if rating is None and True not in wrong:
            break  # unknown from here on whether the solution is right
        if rating not in (None, -1, 0, 1):
            raise LabelError("has a rating other than -1, 0, 1")
        steps.append(values.as_text(completion, "text"))
        wrong.append(None if rating is None else rating < 0)
        if chosen is None:
            break  # the labeler stopped here
    return LabelledExample(values.as_text(question, "problem"), tuple(steps), tuple(wrong))


def _capo(entry: Mapping[str, Any]) -> LabelledExample:
    steps = values.as_texts(entry, "steps")
    wrong = [
        values.as_index({"wrong_steps": step}, "wrong_steps")
        for step in values.as_list(entry, "wrong_steps")
    ]
    if unknown := [step for step in wrong if step not in range(len(steps))]:
        raise LabelError(
            "has a wrong step that does not exist",
            f"wrong_steps names {unknown}, but there are {len(steps)} steps, from 0",
        )
    labels = tuple(step in wrong for step in range(len(steps)))
    observations = _observations(entry, len(steps))
    return LabelledExample(values.as_text(entry, "question"), steps, labels, observations)


def _observations(entry: Mapping[str, Any], steps: int) -> tuple[str | None, ...]:
    """What stands after each step of a trajectory; empty if nothing does."""
    if entry.get("observations") is None:
        return ()
    texts = [text if text.strip() else None for text in values.as_texts(entry, "observations")]
    if len(texts) != steps:
        raise LabelError(
            "has observations that do not fit its steps",
            f"observations has {len(texts)} items for {steps} steps: write one for each step, null "
            "where no observation follows",
        )
    return tuple(texts) if any(texts) else ()


@dataclass(frozen=True, slots=True)
class Format:
    """How entries of a data set are recognised and read."""

    name: str
    fields: frozenset[str]
    read: Callable[[Mapping[str, Any]], LabelledExample]
    contradiction: Callable[[Mapping[str, Any], LabelledExample], str | None] | None = None


FORMATS = (
    Format(
        "ProcessBench",
        frozenset({"problem", "steps", "label"}),
        _process_bench,
        _process_bench_contradicts,
    ),
    Format(
        "BIG-Bench Mistake",
        frozenset({"input", "steps", "mistake_index"}),
        _big_bench,
        _big_bench_contradicts,
    ),
    Format(
        "MR-GSM8K",
        frozenset({"question", "model_output_steps", "model_output_solution_first_error_step"}),
        _mr_gsm8k,
        _mr_gsm8k_contradicts,
    ),
    Format("PRM800K", frozenset({"question", "label"}), _prm800k),
    Format("capo", frozenset({"question", "steps", "wrong_steps"}), _capo),
)
