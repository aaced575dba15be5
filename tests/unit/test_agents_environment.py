"""The small environment for agents: what it answers, and which turns its checker calls wrong."""

from __future__ import annotations

import random

import pytest

from capo_testbed import agents
from capo_testbed.agents import Episode, Task, Turn, check, environment, make_task, read_task
from capo_testbed.agents_demonstrations import ALL_KINDS, NO_SLIPS, Slips, demonstrate

QUESTION = "20+fig-pen?"
TASK = read_task(QUESTION)
FIG, PEN = TASK.table["fig"], TASK.table["pen"]
SUM = 20 + FIG
LAST = SUM - PEN
GET_FIG, GET_PEN = Turn("get fig", f"fig {FIG}"), Turn("get pen", f"pen {PEN}")
ADD, SUBTRACT = Turn(f"calc 20+{FIG}", f"{SUM}"), Turn(f"calc {SUM}-{PEN}", f"{LAST}")
SAY = Turn(f"say {LAST}", "")
RIGHT = [GET_FIG, ADD, GET_PEN, SUBTRACT, SAY]


def wrong(*turns: Turn) -> list[int]:
    return [i for i, bad in enumerate(check(QUESTION, turns)) if bad]


def test_the_right_trajectory_is_right() -> None:
    assert wrong(*RIGHT) == [] and TASK.answer == SAY.text


def test_bad_luck_is_right_and_so_is_trying_again() -> None:
    busy = Turn("get fig", agents.BUSY)
    assert wrong(busy, busy, *RIGHT) == []


@pytest.mark.parametrize(
    ("turns", "expected"),
    [
        # A call with a wrong argument; the right one is still due.
        ([Turn("get cup", f"cup {TASK.table['cup']}"), *RIGHT], [0]),
        # A result is misread: what goes on from the calculator's answer is right.
        (
            [
                GET_FIG,
                Turn(f"calc 20+{FIG - 1}", f"{SUM - 1}"),
                GET_PEN,
                Turn(f"calc {SUM - 1}-{PEN}", f"{LAST - 1}"),
                Turn(f"say {LAST - 1}", ""),
            ],
            [1],
        ),
        # The same, and the calculation is done again.
        (
            [GET_FIG, Turn(f"calc 20+{FIG - 1}", f"{SUM - 1}"), ADD, *RIGHT[2:]],
            [1],
        ),
        ([GET_FIG, GET_FIG, *RIGHT[1:]], [1]),  # repeats itself
        # Invents a number after bad luck.
        ([Turn("get fig", agents.BUSY), Turn("calc 20+5", "25"), GET_PEN], [1]),
        ([Turn(SAY.text, "")], [0]),  # right by luck, before any look-up
        ([*RIGHT[:-1], Turn(f"say {LAST + 1}", "")], [4]),
        ([*RIGHT, SAY], [5]),
        ([Turn("calc 20+", agents.ERROR), *RIGHT], [0]),
        ([Turn("hello", agents.ERROR), *RIGHT], [0]),
    ],
)
def test_mistakes_are_named_where_they_are_made(turns: list[Turn], expected: list[int]) -> None:
    assert wrong(*turns) == expected


def test_a_result_may_be_restated_in_the_next_turn_only_and_rightly() -> None:
    restated = Turn(f"20+{FIG}={SUM} get pen", GET_PEN.observation)
    assert wrong(GET_FIG, ADD, restated, SUBTRACT, SAY) == []
    misstated = Turn(f"20+{FIG}={SUM + 1} get pen", GET_PEN.observation)
    assert wrong(GET_FIG, ADD, misstated, SUBTRACT, SAY) == [2]
    late = Turn(f"20+{FIG}={SUM} {SUBTRACT.text}", SUBTRACT.observation)
    assert wrong(GET_FIG, ADD, GET_PEN, late, SAY) == [3]


def test_demonstrations_without_slips_are_right_and_each_slip_is_found() -> None:
    rng = random.Random(0)
    for _ in range(200):
        task = make_task(rng)
        turns = demonstrate(task, rng, NO_SLIPS)
        assert not any(check(task.question, turns)) and turns[-1].text.endswith(task.answer)
    for kind in Slips.__dataclass_fields__:
        slips = Slips(**{kind: 1.0})
        tasks = [make_task(rng) for _ in range(60)]
        found = [check(task.question, demonstrate(task, rng, slips)) for task in tasks]
        assert any(map(any, found)), kind


def test_answers_follow_from_question_and_key() -> None:
    one, same, other = (environment(QUESTION, key) for key in ("a", "a", "b"))
    asked = ["get fig"] * 30
    answers = [[each.observe(turn) for turn in asked] for each in (one, same, other)]
    assert answers[0] == answers[1] != answers[2]
    assert set(answers[0]) == {agents.BUSY, f"fig {FIG}"}
    assert one.answer("calc 7*3") == "<|user|>\n21\n<|assistant|>"
    assert one.answer("12+7=20 calc -1-2") == agents.reply("-3")
    assert one.answer("calc 1/2") == agents.reply(agents.ERROR)
    assert one.answer("say 3") is None


def test_questions_are_read_as_they_were_made() -> None:
    rng = random.Random(1)
    made = [make_task(rng) for _ in range(100)]
    assert all(read_task(task.question) == task for task in made)
    assert all(2 <= value <= agents.LARGEST for task in made for value in task.values)
    for other in ("What is 2 + 2?", "20+sun?", ""):
        with pytest.raises(ValueError, match="not a question of this environment"):
            read_task(other)


def test_outcomes_are_those_of_the_last_answer() -> None:
    assert agents.outcome("get fig\n\nsay 3\n\nsay 4", "say 4") == 1.0
    assert agents.outcome("get fig\n\nsay 3", "say 4") == 0.0
    assert agents.outcome("get fig", "say 4") == 0.0
    assert agents.outcome("say 4", "4") is None


def test_every_right_turn_can_be_made_in_every_state() -> None:
    """Whatever happened before, what the checker calls right leads to an answer."""
    rng = random.Random(2)
    for _ in range(100):
        task: Task = make_task(rng)
        before = demonstrate(task, rng, ALL_KINDS)[:3]
        episode, state = Episode(task, rng), agents.State(task)
        for turn in before:
            state.go_on(turn.text, turn.observation)
        for _ in range(40):
            if state.answered:
                break
            text = rng.choice(state.right())
            state.go_on(text, episode.observe(text) or "")
        assert state.answered
