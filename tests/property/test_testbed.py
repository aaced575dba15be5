"""The testbed's tasks: what the checker calls wrong is wrong, and nothing else."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from capo_service.core import steps as service_steps
from capo_testbed import tasks
from capo_testbed.tasks import ALL_KINDS, NO_SLIPS, Change, check, demonstrate, make_task

QUESTION = "Ann has 37 coins. Ann wins 25. Ann sells 8. Ann halves them. How many coins now?"
RIGHT = ["37 + 25 = 62", "62 - 8 = 54", "54 / 2 = 27", "The answer is \\boxed{27}."]


def test_a_question_is_read_as_it_was_made() -> None:
    for seed in range(300):
        task = make_task(random.Random(seed))
        assert tasks.read_task(task.question) == task
        assert tasks.outcome(f"\\boxed{{{task.answer}}}", f"\\boxed{{{task.answer}}}") == 1.0


@given(seed=st.integers(0, 10**9))
def test_a_careful_solution_has_no_wrong_step_and_the_right_answer(seed: int) -> None:
    rng = random.Random(seed)
    task = make_task(rng)
    text = demonstrate(task, rng, NO_SLIPS)
    assert not any(check(task.question, tasks.split(text)))
    assert tasks.answer_of(text) == task.answer


@given(seed=st.integers(0, 10**9))
def test_an_answer_is_wrong_only_if_a_step_is(seed: int) -> None:
    rng = random.Random(seed)
    task = make_task(rng)
    text = demonstrate(task, rng, ALL_KINDS)
    wrong = check(task.question, tasks.split(text))
    assert any(wrong) or tasks.answer_of(text) == task.answer


@given(seed=st.integers(0, 10**9))
def test_steps_are_cut_as_the_service_cuts_them(seed: int) -> None:
    rng = random.Random(seed)
    task = make_task(rng)
    text = demonstrate(task, rng, ALL_KINDS)
    cut = [text[start:end].strip() for start, end in service_steps.blank_line(text)]
    assert cut == [step.strip() for step in tasks.split(text)]


@pytest.mark.parametrize(
    ("steps", "wrong"),
    [
        (RIGHT, []),
        (["37 + 25 = 52", "52 - 8 = 44", "44 / 2 = 22", "The answer is \\boxed{22}."], [0]),
        (["37 + 25 = 52", "62 - 8 = 54", *RIGHT[2:]], [0, 1]),  # takes up another number
        (["37 - 25 = 12", "12 - 8 = 4", "4 / 2 = 2", "The answer is \\boxed{2}."], [0]),
        (["37 + 25 = 62", "62 / 2 = 31", "The answer is \\boxed{31}."], [1]),  # one change skipped
        (["37 + 25 = 62", "The answer is \\boxed{62}."], [1]),  # too early
        ([*RIGHT[:3], "So it is 27.", RIGHT[3]], []),
        ([*RIGHT[:3], "So it is 72.", "The answer is \\boxed{72}."], [3]),
        ([*RIGHT, "So it is 27."], [4]),  # after the answer
        (["", *RIGHT], [0]),
        (["It is 27, trust me.", *RIGHT], [0]),
        (["37 + 25 = 062", *RIGHT[1:]], [0]),
    ],
)
def test_what_the_checker_calls_wrong(steps: list[str], wrong: list[int]) -> None:
    assert [i for i, is_wrong in enumerate(check(QUESTION, steps)) if is_wrong] == wrong


def test_halves_are_rounded_down_and_strange_questions_refused() -> None:
    assert Change("/", 2).of(27) == 13
    for text in ("What is 2 + 2?", "Ann has 3 coins. Ann juggles 4. How many coins now?"):
        with pytest.raises(ValueError, match="not a question of this testbed"):
            tasks.read_task(text)


def test_demonstrations_slip_about_as_often_as_they_should() -> None:
    rng = random.Random(0)
    wrong = [
        any(check(task.question, tasks.split(demonstrate(task, rng, tasks.DEMONSTRATIONS))))
        for task in (make_task(rng) for _ in range(1000))
    ]
    assert 0.45 < sum(wrong) / len(wrong) < 0.75
