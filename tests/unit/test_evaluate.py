"""Labelled data of five formats, and the figures of judges whose worth is known."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from capo_client.cli.evaluate import measures, plots, tokens
from capo_client.cli.evaluate.examples import LabelledExample
from capo_client.cli.evaluate.formats import FormatError, LeftOut, read
from capo_client.cli.evaluate.measures import JudgedExample, wrong_steps
from capo_client.cli.evaluate.variants import Variant, variants
from capo_service.core.voting import VoteCount
from capo_wire import VotingMethod

STEPS = ["Two and two are 4.", "4 * 3 = 13.", "The answer is 13."]
BY_HAND = (False, True, None)
ENTRIES: dict[str, dict[str, Any]] = {
    "ProcessBench": {"id": "gsm8k-0", "problem": "q", "steps": STEPS, "label": 1, "final_answer_correct": False},
    "BIG-Bench Mistake": {"input": "q", "steps": STEPS, "mistake_index": 1, "target": "12", "answer": "13"},
    "MR-GSM8K": {
        "uuid": "u", "question": "q", "ground_truth_solution": "g", "ground_truth_answer": "12",
        "model_output_steps": STEPS, "model_output_answer_correctness": "wrong",
        "model_output_solution_correctness": "wrong", "model_output_solution_first_error_step": 2,
        "model_output_solution_first_error_reason": "r", "question_type": "original",
    },
    "PRM800K": {
        "labeler": "l", "question": {"problem": "q", "ground_truth_answer": "12"},
        "label": {"finish_reason": "found_error", "steps": [
            {"completions": [{"text": "no", "rating": -1, "flagged": False},
                             {"text": STEPS[0], "rating": 1, "flagged": False}], "human_completion": None, "chosen_completion": 1},
            {"completions": [{"text": STEPS[1], "rating": -1, "flagged": False}], "human_completion": None, "chosen_completion": None},
        ]},
    },
    "capo": {"question": "q", "steps": STEPS, "wrong_steps": [1, 2]},
}  # fmt: skip


@pytest.mark.parametrize("name", ENTRIES)
@pytest.mark.parametrize("array", [False, True])
def test_each_format_is_known_by_its_fields(name: str, array: bool, tmp_path: Path) -> None:
    path = tmp_path / "data"
    path.write_text(
        json.dumps([ENTRIES[name]] * 2) if array else f"{json.dumps(ENTRIES[name])}\n\n" * 2
    )
    found, examples, left_out = read(path)
    assert (found, len(examples), left_out) == (name, 2, [])
    wrong = {"PRM800K": (False, True), "capo": (False, True, True)}.get(name, BY_HAND)
    assert examples[0] == LabelledExample("q", tuple(STEPS[: len(wrong)]), wrong)
    assert examples[0].first_error == 1
    rollout = examples[0].rollout()
    assert [rollout["response"][a:b] for a, b in rollout["steps"]] == list(examples[0].steps)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("ProcessBench", {"label": -1}),
        ("BIG-Bench Mistake", {"mistake_index": None}),
        ("MR-GSM8K", {"model_output_solution_correctness": "correct"}),
    ],
)
def test_solutions_without_an_error(name: str, changes: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "data").write_text(json.dumps(ENTRIES[name] | changes))
    assert read(tmp_path / "data")[1][0].wrong == (False,) * 3


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "empty"), ("{", "neither JSON lines"), ("[1]", "entry 1 is not an object"),
        ('{"a": 1}', "known formats: ProcessBench (label, problem, steps)"),
        (json.dumps(ENTRIES["capo"] | {"wrong_steps": [3]}), "as capo: none of 1 entries can be judged: entry 1: has a wrong step that does not exist (wrong_steps names [3]"),
        (json.dumps(ENTRIES["BIG-Bench Mistake"] | {"mistake_index": 7}), "the first wrong step is 7, but there are 3"),
    ],
)  # fmt: skip
def test_files_that_cannot_be_read_say_why(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "data").write_text(text)
    with pytest.raises(FormatError) as caught:
        read(tmp_path / "data")
    assert said in str(caught.value)


def test_a_blank_step_leaves_its_solution_out(tmp_path: Path) -> None:
    entries = [ENTRIES["capo"], ENTRIES["capo"] | {"steps": ["a", " "], "wrong_steps": []}]
    (tmp_path / "data").write_text("\n".join(map(json.dumps, entries)))
    assert read(tmp_path / "data")[2] == [LeftOut(2, "has a blank step")]


@given(
    st.sampled_from(get_args(VotingMethod)), st.lists(st.none() | st.frozensets(st.integers(0, 3)), max_size=8),
    st.frozensets(st.integers(0, 3)), st.integers(1, 4),
)  # fmt: skip
def test_votes_are_those_of_the_service(
    method: VotingMethod, critiques: list[frozenset[int] | None], sure: frozenset[int], weight: int
) -> None:
    judged = JudgedExample(
        LabelledExample("q", ("a",) * 4, (False,) * 4), tuple(critiques), None, sure, weight
    )
    votes = VoteCount.of(critiques, 4, sure, weight)
    found = wrong_steps(method, critiques, judged)
    if votes.valid == 0:
        assert found is None
    else:
        penalties = votes.penalties(method)
        assert found == {step for step in range(4) if penalties[step] >= 0.5}


def judge_of(recall: float, false: float, n: int, rollouts: int) -> list[JudgedExample]:
    chance = random.Random(1)
    found = []
    for number in range(rollouts):
        wrong = tuple(step == 3 and number % 2 == 0 for step in range(8))
        said = tuple(
            frozenset(s for s in range(8) if chance.random() < (recall if wrong[s] else false))
            for _ in range(n)
        )
        found.append(JudgedExample(LabelledExample("q", ("a",) * 8, wrong), said, said[0]))
    return found


def test_figures_of_a_judge_whose_worth_is_known() -> None:
    judged = judge_of(0.7, 0.05, 16, 400)
    lines = {(line["method"], line["k"]): line for line in measures.table(judged, 16, 200, 0)}
    assert {k for method, k in lines if method == "majority"} == {1, 2, 4, 8, 16}
    assert lines["union", 1]["recall"] == pytest.approx(0.7, abs=0.02)
    # One critique clears a clean rollout with 0.95 ** 8, and finds the first error with 0.95 ** 3 * 0.7.
    assert lines["intersection", 1]["correct_accuracy"] == pytest.approx(0.663, abs=0.03)
    assert lines["intersection", 1]["error_accuracy"] == pytest.approx(0.600, abs=0.03)
    assert lines["intersection", 4]["recall"] == pytest.approx(0.7**4, abs=0.05)
    assert lines["majority", 16]["f1"] > 0.9 > lines["majority", 1]["f1"]
    for line in lines.values():
        low, high = line["intervals"]["f1"]
        assert low <= line["f1"] <= high
    low, high = lines["intersection", 1]["intervals"]["recall"]
    assert 0.02 < high - low < 0.2
    # Steps called wrong by a share s of 16 critiques: right at 1, so over-confident between.
    error, bins = measures.calibration(measures.shares(judged))
    assert error is not None and 0 < error < 0.2 and sum(b["steps"] for b in bins) == 400 * 8
    agreed = measures.critique_agreement(judged)
    assert agreed == pytest.approx(0.93, abs=0.03)


def test_what_was_not_judged_counts_as_missed() -> None:
    example = LabelledExample("q", ("a", "b"), (False, True))
    clean = LabelledExample("q", ("a", "b"), (False, False))
    lines = measures.table(
        [JudgedExample(example, (), None), JudgedExample(clean, (None,), None)], 1, 20, 0
    )
    assert all(
        line["f1"] == 0 and line["recall"] == 0 and line["precision"] is None for line in lines
    )
    assert measures.calibration([]) == (None, [])
    assert measures.critique_agreement([JudgedExample(clean, (None,), None)]) is None


def usage(prompt: int, cached: int, completion: int, thinking: int, n: int) -> dict[str, Any]:
    names = ("prompt_tokens", "cached_tokens", "completion_tokens", "thinking_tokens")
    return {
        "status": "ok",
        "usage": dict(zip(names, (prompt, cached, completion, thinking), strict=True))
        | {"critiques_run": n},
    }


@pytest.mark.parametrize(
    ("cached", "computed"),
    [(300, {1: 100, 2: 100, 4: 100}), (0, {1: 100, 2: 200, 4: 400}), (380, {1: 20, 2: 20, 4: 20})],
)
def test_tokens_of_a_vote_compute_the_prompt_once_if_it_is_cached(
    cached: int, computed: dict[int, float]
) -> None:
    """Four critiques of a prompt of 100 tokens: in all, and of votes of fewer."""
    results = [usage(400, cached, 80, 60, 4), {"status": "error"}, usage(400, cached, 40, 20, 4)]
    for k, expected in computed.items():
        found = tokens.of_votes(results, k)
        assert found["prompt_tokens"] == 100 * k
        assert found["prompt_tokens"] - found["cached_tokens"] == expected
        assert found["completion_tokens"] == 15 * k and found["thinking_tokens"] == 10 * k
    assert tokens.of_votes([{"status": "error"}], 4)["prompt_tokens"] == 0


def test_thoughts_are_those_of_the_judge() -> None:
    critiques = [
        {"valid": True, "thinking_tokens": 32, "thinking_truncated": True},
        {"valid": True, "thinking_tokens": 8},
        {"valid": False},
        {"valid": True, "critic": "symbolic"},
    ]
    found = tokens.thoughts([{"critiques": critiques}, {"status": "error"}])
    assert found == {
        "mean_tokens": pytest.approx(40 / 3),
        "truncated": pytest.approx(1 / 3),
        "readable": pytest.approx(2 / 3),
    }
    assert set(tokens.thoughts([]).values()) == {None}


def compared_rows() -> list[dict[str, Any]]:
    """Runs whose F1 is known: thinking 0 gains by votes, 64 costs more and is better."""
    reports = []
    for style, budget, cost, values in (
        ("verdict", 0, 5, (0.4, 0.5, 0.55)),
        ("brief", 0, 30, (0.42, 0.5, 0.56)),
        ("verdict", 64, 50, (0.7, 0.72, 0.8)),
    ):
        lines = [("majority", k, f1) for k, f1 in zip((1, 2, 4), values, strict=True)]
        table = [
            {
                "method": method,
                "k": k,
                "f1": f1,
                "intervals": {"f1": (f1 - 0.1, f1 + 0.1)},
                "tokens": {
                    "prompt_tokens": 100.0 * k,
                    "cached_tokens": 100.0 * (k - 1),
                    "completion_tokens": float(cost * k),
                    "thinking_tokens": 0.0,
                },
            }
            for method, k, f1 in [*lines, ("greedy", 1, values[0] - 0.05), ("union", 2, 0.9)]
        ]
        reports.append({"style": style, "thinking_budget": budget, "table": table})
    return tokens.compared(reports)


def test_a_row_is_efficient_if_no_other_has_more_for_less() -> None:
    efficient = [
        (row["style"], row["thinking_budget"], row["k"])
        for row in compared_rows()
        if row["efficient"]
    ]
    assert efficient == [
        ("verdict", 0, 1),
        ("verdict", 0, 2),
        ("verdict", 0, 4),
        ("verdict", 64, 1),
        ("verdict", 64, 2),
        ("verdict", 64, 4),
    ]
    assert {row["method"] for row in compared_rows()} == {"majority", "greedy"}


def test_the_comparison_is_drawn(tmp_path: Path) -> None:
    report = {"judge": "j", "data": "d", "f1_by_tokens": compared_rows(), "runs": []}
    assert plots.draw(report, tmp_path) == [tmp_path / "f1_by_tokens.png"]
    assert (tmp_path / "f1_by_tokens.png").read_bytes().startswith(b"\x89PNG")


def test_every_style_is_asked_with_every_budget() -> None:
    assert variants(None, None) == [Variant()]
    found = variants("verdict, full,verdict", "0,64")
    assert [each.name for each in found] == [
        "verdict-thinking-0",
        "verdict-thinking-64",
        "full-thinking-0",
        "full-thinking-64",
    ]
    assert found[1].voting() == {"critique_style": "verdict", "thinking_tokens": 64}
    assert variants(None, "0")[0].voting() == {"thinking_tokens": 0}
