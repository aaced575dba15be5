"""Labelled data as it really is: odd types, contradictions, labels that do not fit their steps.

Every entry of a file is judged, or left out with a reason.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from capo_client.cli.evaluate.examples import LabelledExample
from capo_client.cli.evaluate.formats import FormatError, LeftOut, read

STEPS = ["2+2=4.", "So 5."]
PROCESS = {"id": "x", "problem": "q", "steps": STEPS, "label": 1, "final_answer_correct": False}
BIG = {"input": "q", "steps": STEPS, "target": "4", "answer": "5", "mistake_index": 1}
MR = {
    "question": "q",
    "model_output_steps": STEPS,
    "model_output_answer_correctness": "wrong",
    "model_output_solution_correctness": "wrong",
    "model_output_solution_first_error_step": 2,
}
OURS = {"question": "q", "steps": STEPS, "wrong_steps": [1]}


def rated(text: str, rating: object) -> dict[str, object]:
    return {"text": text, "rating": rating, "flagged": False}


def prm_step(
    *completions: dict[str, object], chosen: object = None, human: object = None
) -> dict[str, object]:
    return {
        "completions": list(completions) or None,
        "human_completion": human,
        "chosen_completion": chosen,
    }


def prm(*steps: object, finish: str = "solution") -> dict[str, Any]:
    question = {"problem": "p", "ground_truth_answer": "4"}
    return {"question": question, "label": {"steps": list(steps), "finish_reason": finish}}


PRM = prm(prm_step(rated("a", 1), chosen=0), prm_step(rated("b", -1)), finish="found_error")
GOOD = {
    "ProcessBench": PROCESS,
    "BIG-Bench Mistake": BIG,
    "MR-GSM8K": MR,
    "PRM800K": PRM,
    "capo": OURS,
}


def file_of(tmp_path: Path, *entries: object) -> Path:
    path = tmp_path / "data.jsonl"
    texts = (each if isinstance(each, str) else json.dumps(each) for each in entries)
    path.write_bytes("".join(f"{text}\r\n" for text in texts).encode())
    return path


def one(tmp_path: Path, good: dict[str, Any], entry: object) -> LabelledExample | LeftOut:
    """What comes of an entry between two good ones."""
    _, examples, left_out = read(file_of(tmp_path, good, entry, good))
    assert [each.entry for each in examples if each.entry != 2] == [1, 3]
    return next(each for each in (*examples, *left_out) if each.entry == 2)


@pytest.mark.parametrize(
    ("good", "changes", "wrong"),
    [
        (PROCESS, {"label": "1"}, (False, True)),
        (PROCESS, {"label": 1.0}, (False, True)),
        (PROCESS, {"label": "-1"}, (False, False)),
        (PROCESS, {"label": -1.0, "problem": 5}, (False, False)),
        (PROCESS, {"label": 0, "steps": [4, 5.5]}, (True, None)),
        (BIG, {"mistake_index": "1"}, (False, True)),
        (BIG, {"mistake_index": 1.0}, (False, True)),
        (BIG, {"mistake_index": ""}, (False, False)),
        (BIG, {"mistake_index": "null"}, (False, False)),
        (BIG, {"mistake_index": float("nan")}, (False, False)),
        (MR, {"model_output_solution_first_error_step": "2"}, (False, True)),
        (
            MR,
            {
                "model_output_solution_correctness": "Correct",
                "model_output_solution_first_error_step": "N/A",
            },
            (False, False),
        ),
        (
            MR,
            {
                "model_output_solution_correctness": True,
                "model_output_solution_first_error_step": None,
            },
            (False, False),
        ),
        (
            MR,
            {"model_output_solution_correctness": False, "model_output_steps": "a\n\nb\n"},
            (False, True),
        ),
        (OURS, {"wrong_steps": ["0", 1.0]}, (True, True)),
        (OURS, {"wrong_steps": []}, (False, False)),
    ],
)
def test_values_of_other_types_are_read(
    good: dict[str, Any], changes: dict[str, Any], wrong: tuple[bool, ...], tmp_path: Path
) -> None:
    found = one(tmp_path, good, good | changes)
    assert isinstance(found, LabelledExample) and found.wrong == wrong


@pytest.mark.parametrize(
    ("good", "changes", "reason"),
    [
        (PROCESS, {"label": None}, "has no label"),
        (PROCESS, {"label": -2}, "has a first wrong step that does not exist"),
        (PROCESS, {"label": True}, "label is not a whole number"),
        (PROCESS, {"label": "second"}, "label is not a whole number"),
        (PROCESS, {"label": 0.5}, "label is not a whole number"),
        (PROCESS, {"steps": "2+2=4.\n\nSo 5."}, "steps is not a list"),
        (PROCESS, {"steps": None}, "steps is not a list"),
        (PROCESS, {"steps": []}, "has a first wrong step that does not exist"),
        (PROCESS, {"steps": [], "label": -1}, "has no steps"),
        (PROCESS, {"steps": ["a", None]}, "has a blank step"),
        (PROCESS, {"steps": ["a", " \n"]}, "has a blank step"),
        (PROCESS, {"steps": ["a", {"text": "b"}]}, "steps contains an item that is not a string"),
        (PROCESS, {"problem": None}, "problem is not a string"),
        (PROCESS, {"problem": " "}, "problem is blank"),
        (BIG, {"mistake_index": 2}, "has a first wrong step that does not exist"),  # R107
        (BIG, {"mistake_index": -1}, "has a first wrong step that does not exist"),
        (
            MR,
            {"model_output_solution_first_error_step": "N/A"},
            "is wrong, and has no first wrong step",
        ),  # R106
        (
            MR,
            {"model_output_solution_first_error_step": None},
            "is wrong, and has no first wrong step",
        ),
        (
            MR,
            {"model_output_solution_first_error_step": 0},
            "has a first wrong step that does not exist",
        ),
        (
            MR,
            {"model_output_solution_first_error_step": 3},
            "has a first wrong step that does not exist",
        ),
        (
            MR,
            {"model_output_solution_first_error_step": "two"},
            "model_output_solution_first_error_step is not a whole number",
        ),
        (
            MR,
            {"model_output_solution_correctness": "N/A"},
            "does not say whether the solution is correct",
        ),
        (OURS, {"wrong_steps": None}, "wrong_steps is not a list"),
        (OURS, {"wrong_steps": [2]}, "has a wrong step that does not exist"),
        (OURS, {"wrong_steps": [None]}, "has a wrong step that does not exist"),
        (OURS, {"wrong_steps": [-1]}, "has a wrong step that does not exist"),
        (OURS, {"wrong_steps": [False, True]}, "wrong_steps is not a whole number"),
    ],
)
def test_what_cannot_be_judged_is_left_out_with_its_line_and_reason(
    good: dict[str, Any], changes: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    found = one(tmp_path, good, good | changes)
    assert isinstance(found, LeftOut) and found.reason == reason


@pytest.mark.parametrize("good", GOOD.values(), ids=GOOD)
@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{torn", "is not JSON"),
        ('{"a": 1},', "is not JSON"),
        ("null", "the entry is not an object"),
        ("[]", "the entry is not an object"),
        ("{}", "lacks "),
    ],
)
def test_lines_that_are_no_entries_are_left_out(
    good: dict[str, Any], line: str, reason: str, tmp_path: Path
) -> None:
    found = one(tmp_path, good, line)
    assert isinstance(found, LeftOut) and found.reason.startswith(reason)
    _, examples, left_out = read(file_of(tmp_path, line, good))
    assert (len(examples), len(left_out)) == (1, 1), "also where it comes first"


@pytest.mark.parametrize(
    ("good", "changes", "says"),
    [
        (BIG, {"mistake_index": None}, "the answer is not the target, and no step is wrong"),
        (BIG, {"mistake_index": None, "answer": 4}, None),
        (BIG, {"mistake_index": None, "answer": "4.0"}, None),
        (BIG, {"mistake_index": None, "target": "(A) Yes", "answer": "(a)  yes."}, None),
        (BIG, {"mistake_index": None, "target": None}, None),
        (BIG, {"mistake_index": 0, "answer": "4"}, None),  # right by luck
        (PROCESS, {"label": -1}, "the final answer is wrong, and no step is"),
        (PROCESS, {"label": -1, "final_answer_correct": True}, None),
        (PROCESS, {"label": -1, "final_answer_correct": None}, None),
        (
            MR,
            {"model_output_solution_correctness": "correct"},
            "the solution is correct, and has a first wrong step",
        ),
        (
            MR,
            {
                "model_output_solution_correctness": "correct",
                "model_output_solution_first_error_step": "N/A",
            },
            "the answer is wrong, and no step is",
        ),
        (MR, {}, None),
    ],
)
def test_labels_that_contradict_each_other_are_read_and_marked(
    good: dict[str, Any], changes: dict[str, Any], says: str | None, tmp_path: Path
) -> None:
    found = one(tmp_path, good, good | changes)
    assert isinstance(found, LabelledExample) and found.contradiction == says


@pytest.mark.parametrize(
    ("entry", "steps", "wrong"),
    [
        # 0 is not wrong; where nothing was chosen, the first completion is judged.
        (
            prm(
                prm_step(rated("a", 1), chosen=0),
                prm_step(rated("b", 0), rated("c", -1)),
                finish="give_up",
            ),
            ("a", "b"),
            (False, False),
        ),
        (
            prm(prm_step(rated("a", 1), chosen=0), prm_step(rated("c", -1), rated("b", 0))),
            ("a", "c"),
            (False, True),
        ),
        (prm(prm_step(rated("no", -1), rated("a", "1"), chosen="1")), ("a",), (False,)),
        (
            prm(prm_step(human={"text": "h", "rating": None}), prm_step(rated("b", -1.0))),
            ("h", "b"),
            (False, True),
        ),
        (prm(prm_step(human="h"), prm_step(rated("b", 0), chosen=0)), ("h", "b"), (False, False)),
        # What is not rated ends the solution, or is not counted after the first error.
        (
            prm(prm_step(rated("a", 1), chosen=0), prm_step(rated("b", None), chosen=0)),
            ("a",),
            (False,),
        ),
        (
            prm(prm_step(rated("a", -1), chosen=0), prm_step(rated("b", None), chosen=0)),
            ("a", "b"),
            (True, None),
        ),
        (prm(prm_step(rated("a", 1), chosen=0), prm_step()), ("a",), (False,)),
    ],
)
def test_which_completion_of_prm800k_is_judged(
    entry: dict[str, Any], steps: tuple[str, ...], wrong: tuple[bool | None, ...], tmp_path: Path
) -> None:
    assert one(tmp_path, PRM, entry) == LabelledExample("p", steps, wrong)


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        (prm(finish="solution"), "has no steps"),
        (prm(prm_step()), "has no steps"),
        (prm(finish="bad_problem"), "has a problem that its labeler marked as bad"),
        (
            prm(prm_step(rated("a", 1), chosen=0), finish="bad_problem"),
            "has a problem that its labeler marked as bad",
        ),
        (prm(prm_step(rated("a", None), chosen=0)), "has no steps"),
        (prm(prm_step(rated("a", 1), chosen=1)), "has a chosen completion that does not exist"),
        (prm(prm_step(rated("a", 1), chosen=-1)), "has a chosen completion that does not exist"),
        (prm(prm_step(rated("a", 2), chosen=0)), "has a rating other than -1, 0, 1"),
        (prm(prm_step(rated(" ", 1), chosen=0)), "text is blank"),
        (prm("step"), "step 0 is not an object"),
        ({"question": "p", "label": {"steps": []}}, "question is not an object"),
        ({"question": {"problem": "p"}, "label": 1}, "label is not an object"),
        ({"question": {"problem": "p"}, "label": {}}, "steps is not a list"),
    ],
)
def test_entries_of_prm800k_without_labels_are_left_out(
    entry: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    found = one(tmp_path, PRM, entry)
    assert isinstance(found, LeftOut) and found.reason == reason


def test_a_file_of_which_nothing_is_left_says_why(tmp_path: Path) -> None:
    entries = [BIG | {"mistake_index": 2}, BIG | {"steps": [""]}]
    with pytest.raises(FormatError, match=r"none of 2 entries can be judged: entry 1: has a first"):
        read(file_of(tmp_path, *entries))
    with pytest.raises(FormatError, match="neither JSON lines nor a JSON array"):
        read(file_of(tmp_path, "{", "}"))
    with pytest.raises(FormatError, match="neither JSON lines nor a JSON array"):
        read(file_of(tmp_path, "[", "{},", "]"))
    with pytest.raises(FormatError, match="cannot be read"):
        read(tmp_path)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.floats() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=2)
    ),
    max_leaves=4,
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    keys = (
        value.keys()
        if isinstance(value, dict)
        else range(len(value) if isinstance(value, list) else 0)
    )
    return [path, *(place for key in keys for place in places(value[key], (*path, key)))]


@settings(max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.sampled_from(sorted(GOOD)), data=st.data())
def test_no_entry_is_lost(name: str, data: st.DataObject, tmp_path: Path) -> None:
    """Whatever stands at any place of an entry, it is judged or left out, and can be sent."""
    good = GOOD[name]
    entry = json.loads(json.dumps(good))
    *way, last = data.draw(st.sampled_from(places(entry)[1:]))
    inside = entry
    for key in way:
        inside = inside[key]
    inside[last] = data.draw(JSON)
    _, examples, left_out = read(file_of(tmp_path, good, entry, good))
    assert sorted(each.entry for each in (*examples, *left_out)) == [1, 2, 3]
    for example in examples:
        rollout = example.rollout()
        assert all(rollout["response"][a:b].strip() for a, b in rollout["steps"])
        assert len(rollout["steps"]) == len(example.wrong) and example.question.strip()
