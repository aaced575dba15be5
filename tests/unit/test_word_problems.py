"""Word problems for small language models, and the share of false equations in their answers."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from capo_testbed import word_problems
from capo_testbed.word_problems import check, false_equations, make_problem, outcome


@pytest.mark.parametrize(
    ("text", "false"),
    [
        ("15 + 9 = 24. The answer is 24.", [False]),
        ("15 + 9 = 25", [True]),
        ("So 3 * 4 + 2 = 14 and 2 x 3 = 5.", [False, True]),
        ("2 + 3 * 4 = 20", [True]),
        ("7 \u00d7 8 = 56, 56 \u00f7 7 = 8, 7/2 = 3.5, 7 / 2 = 3", [False, False, False, True]),
        ("10 - 2 - 3 = 5", [False]),
        ("5 + 4 = $9", [False]),
        ("4 + 1 = 5 + 2", []),
        ("1,000 + 3 = 4", []),
        ("x + 3 = 5, 3 = 3, 4 / 0 = 1", []),
        ("2 + 2 = 4,000", []),
    ],
)
def test_equations_are_read_and_decided(text: str, false: list[bool]) -> None:
    assert false_equations(text) == false
    assert check("any", text.split("\n\n")) == false


@pytest.mark.parametrize(
    ("response", "right"),
    [
        ("15 + 9 = 24. The answer is 24.", 1.0),
        ("The answer is 24. Then she has 30.", 1.0),
        ("15 + 9 = 24", 1.0),
        ("24 - 9 = 15", 0.0),
        ("the answer is: $24.00", 1.0),
        ("", 0.0),
    ],
)
def test_the_outcome_is_the_named_answer_or_the_last_number(response: str, right: float) -> None:
    assert outcome(response, "15 + 9 = 24\n#### 24") == right
    assert outcome(response, "no answer") is None


def test_solutions_are_right() -> None:
    rng = random.Random(3)
    for _ in range(200):
        _, solution = make_problem(rng)
        assert not any(false_equations(solution)) and false_equations(solution)
        assert outcome(solution.rpartition("####")[0], solution) == 1


def test_the_files_are_the_same_each_time_and_share_no_question(tmp_path: Path) -> None:
    for name in ("one", "two"):
        word_problems.write_problems(tmp_path / name, 50, 20)
    train, held_out = (
        [json.loads(line)["question"] for line in (tmp_path / "one" / name).open()]
        for name in ("train.jsonl", "eval.jsonl")
    )
    assert (len(train), len(held_out)) == (50, 20) and not set(train) & set(held_out)
    assert (tmp_path / "two" / "train.jsonl").read_text() == (
        tmp_path / "one" / "train.jsonl"
    ).read_text()
