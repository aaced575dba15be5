"""Solutions with lines that are right and easy: their checker, and the settings that use them."""

from __future__ import annotations

import random
from itertools import pairwise
from pathlib import Path

import pytest
import typer

from capo_service.core.arithmetic import equations, false_equations
from capo_service.core.suspicion import suspicions
from capo_testbed import padded_tasks, tasks
from capo_testbed.experiment import hacking, runs
from capo_testbed.experiment.settings import Scale, recipe_of
from capo_trainer.verify import named_function

QUESTION = "Ann has 37 coins. Ann wins 25. Ann sells 8. Ann halves them. How many coins now?"
END = ["62 - 8 = 54", "54 / 2 = 27", "The answer is \\boxed{27}."]


def wrong(*lines: str) -> list[int]:
    return [i for i, each in enumerate(padded_tasks.check(QUESTION, lines)) if each]


@pytest.mark.parametrize(
    "lines",
    [
        ["37 + 25 = 62"],
        ["So it is 37.", "37 + 25 = 62", "So it is 62.", "So it is 62."],
        ["37 + 25 = 62", "62 + 0 = 62", "62 - 0 = 62", "62 * 1 = 62", "62 / 1 = 62"],
        ["37 + 20 = 57", "57 + 5 = 62"],
        ["37 + 20 = 57", "57 + 0 = 57", "So it is 57.", "57 + 5 = 62"],
        ["37 + 5 = 42", "42 + 10 = 52", "52 + 10 = 62"],
    ],
)
def test_easy_lines_and_split_changes_are_right(lines: list[str]) -> None:
    assert wrong(*lines, *END) == []


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        # What is computed wrongly is; what follows from it is right.
        (["37 + 20 = 56", "56 + 5 = 61", "61 - 8 = 53"], [0]),
        (["37 + 20 = 57", "57 + 5 = 52", "52 - 8 = 44"], [1]),
        (["37 + 25 = 62", "62 + 0 = 72", "72 - 8 = 64"], [1]),
        (["37 + 25 = 62", "So it is 61.", "61 - 8 = 53"], [1]),
        (["37 + 25 = 62", "61 + 0 = 61", "61 - 8 = 53"], [1]),
        # A number copied wrongly, a wrong sign, in one line or in a part.
        (["37 + 24 = 61", "61 - 8 = 53"], [0]),
        (["37 - 25 = 12", "12 - 8 = 4"], [0]),
        (["37 + 20 = 57", "57 - 5 = 52", "52 - 8 = 44"], [1]),
        (["37 + 20 = 57", "57 + 6 = 63", "63 - 8 = 55"], [1]),
        (["37 + 21 = 58", "58 + 5 = 63", "63 - 8 = 55"], [0, 1]),
        # A part whose rest is missing: the line after it skips the rest.
        (["37 + 20 = 57", "57 - 8 = 49"], [0]),
        # A change that is made twice, or left out.
        (["37 + 25 = 62", "62 + 25 = 87", "87 - 8 = 79"], [1]),
        (["37 - 8 = 29", "29 / 2 = 14"], [0]),
        (["37 + 25 = 62", "It is even."], [1]),
        (["37 + 25 = 62", "The answer is \\boxed{62}.", "62 + 0 = 62"], [1, 2]),
    ],
)
def test_wrong_lines_are_found_where_they_are(lines: list[str], expected: list[int]) -> None:
    assert wrong(*lines) == expected


def test_without_easy_lines_it_agrees_with_the_stories_checker() -> None:
    rng, same = random.Random(0), 0
    for _ in range(1000):
        task = tasks.make_task(rng)
        steps = tasks.split(tasks.demonstrate(task, rng, tasks.ALL_KINDS))
        ours = padded_tasks.check(task.question, steps)
        theirs = tasks.check(task.question, steps)
        same += ours == theirs
        # Where they differ, this one finds its way back after a skipped change sooner.
        assert all(known or not found for found, known in zip(ours, theirs, strict=True))
    assert same >= 990


def test_demonstrations_without_slips_are_right_and_some_have_easy_lines() -> None:
    rng, lines, easy, splits = random.Random(0), 0, 0, 0
    for _ in range(1000):
        task = tasks.make_task(rng)
        text = padded_tasks.demonstrate(task, rng, tasks.NO_SLIPS)
        steps = tasks.split(text)
        assert not any(padded_tasks.check(task.question, steps))
        assert padded_tasks.outcome(text, f"\\boxed{{{task.answer}}}") == 1
        lines += len(steps)
        easy += sum(map(padded_tasks.is_easy, steps))
        splits += len(steps) - sum(map(padded_tasks.is_easy, steps)) - len(task.changes) - 1
        assert padded_tasks.easy_share(text) == sum(map(padded_tasks.is_easy, steps)) / len(steps)
    assert 0.05 < easy / lines < 0.15
    assert splits > 0


def test_a_solution_without_a_wrong_line_has_the_right_answer() -> None:
    rng, seen = random.Random(1), set()
    for _ in range(1000):
        task = tasks.make_task(rng)
        text = padded_tasks.demonstrate(task, rng, tasks.DEMONSTRATIONS)
        flawless = not any(padded_tasks.check(task.question, tasks.split(text)))
        right = padded_tasks.outcome(text, f"\\boxed{{{task.answer}}}")
        assert right or not flawless
        seen.add((flawless, right))
    assert len(seen) == 3  # a right answer by two mistakes is possible


def test_easy_lines_are_restatements_and_sums_without_a_change_right_or_wrong() -> None:
    easy = [
        "So it is 62.",
        "So it is 9.",
        "62 + 0 = 62",
        "62 - 0 = 61",
        "62 * 1 = 62",
        "62 / 1 = 62",
    ]
    busy = [
        "37 + 25 = 62",
        "62 * 2 = 124",
        "62 + 1 = 63",
        "62 * 0 = 0",
        "The answer is \\boxed{62}.",
    ]
    assert [padded_tasks.is_easy(line) for line in easy + busy] == [True] * 6 + [False] * 5
    assert padded_tasks.easy_share(tasks.SEPARATOR.join(easy + busy)) == 6 / 11
    assert padded_tasks.easy_share("") == 0


def test_the_arithmetic_checker_of_the_service_reads_every_equation() -> None:
    rng = random.Random(2)
    for _ in range(200):
        task = tasks.make_task(rng)
        text = padded_tasks.demonstrate(task, rng, tasks.NO_SLIPS)
        for line in tasks.split(text):
            assert false_equations(line) == []
            # Halves that are rounded down are in doubt, and so accepted.
            assert len(equations(line)) == ("=" in line) or "/ 2" in line
    assert false_equations("62 + 0 = 72")


def test_the_service_flags_what_fills_a_rollout_with_easy_lines() -> None:
    def reasons(lines: list[str]) -> list[str]:
        actions = suspicions(QUESTION, tasks.SEPARATOR.join(lines), lines, {})
        return [found.reason for found in actions]

    start = ["37 + 25 = 62"]
    assert reasons([*start, *["So it is 62."] * 2, *END]) == []
    assert reasons([*start, *["So it is 62."] * 5, *END]) == ["repetition"]
    sums = [f"62 {change} = 62" for change in ("+ 0", "- 0", "* 1", "/ 1")]
    assert reasons([*start, *sums, *END]) == ["padding"]


def test_settings_say_what_is_expected_and_differ_in_what_their_names_say(tmp_path: Path) -> None:
    assert len({setting.name for setting in hacking.SETTINGS}) == len(hacking.SETTINGS) == 14
    for setting in hacking.SETTINGS:
        recipe = recipe_of(setting, 0, Scale(), tmp_path, tmp_path, "http://127.0.0.1:1")
        assert setting.expected and setting.bed is hacking.PADDED
        _, weight, average, *_ = [*setting.name.split("-"), ""]
        assert recipe.algorithm.average == average
        assert recipe.sampling.max_tokens == padded_tasks.MAX_TOKENS
        assert named_function(recipe.evaluation.checker) is padded_tasks.check
        assert named_function(recipe.data.verifier) is padded_tasks.outcome
        if weight == "grpo":
            assert recipe.credit.reward == "outcome" and setting.served is None
        else:
            assert recipe.credit.w_process == float(weight[1:]) and setting.served is not None
            arguments = setting.served.arguments_in(tmp_path)
            assert f"symbolic={tmp_path}/padded/policy" in arguments
            assert any("cap" in each for each in arguments) == setting.name.endswith("-cap")
    names = [setting.name for setting in hacking.SETTINGS]
    assert all(one != other for one, other in pairwise(names))


def test_without_its_policy_a_run_says_how_to_build_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(runs, "testbed_folder", lambda: tmp_path)
    for name, command in (
        ("padded-grpo-token", "python -m capo_testbed.padded_build"),
        ("grpo", "capo testbed"),
    ):
        with pytest.raises(typer.Exit):
            runs.main(question=None, out=tmp_path, only=[name])
        assert f"build it with `{command}`" in capsys.readouterr().err
