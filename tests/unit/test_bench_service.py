"""What bench/service.py computes from its measurements; engines are started by the benchmark itself."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="extra trainer")
sys.path.insert(0, str(Path(__file__).parents[2] / "bench"))

from engines import flags
from latency import Loop, merged
from running import Source
from script import Judged, majority, prompt
from script_comparison import EXACT, Case, is_as_good, renamed, speedup

from capo_testbed.common import Solution
from capo_testbed.tasks import Change, Task

TASK = Task("Ann has 3 pens. Ann wins 4. How many pens now?", 3, (Change("+", 4),))
RIGHT, WRONG = "3 + 4 = 7", "3 + 4 = 8"
LAST = "The answer is \\boxed{7}."


def rollouts(count: int) -> list[Solution]:
    return [Solution(TASK, f"{WRONG if i % 2 else RIGHT}\n\n{LAST}") for i in range(count)]


def case(rates: list[float], errors: int, count: int = 40) -> Case:
    """Judges that answer at `rates`, with so many rollouts judged wrongly."""
    found, asked = Case(), rollouts(count)
    for rate in rates:
        said = [each.wrong() for each in asked]
        for i in range(errors):
            said[i] = [not said[i][0], said[i][1]]
        found.add(Judged(said, count / rate, tokens=4 * count), asked)
    return found


def test_the_script_counts_the_critiques_that_can_be_read() -> None:
    texts = ['{"incorrect_steps": [0, 2]}', '{"incorrect_steps": [2]}', "no list", "[2, 1]"]
    assert majority(texts, 3) == [False, False, True]
    assert majority(["[0]", "[]"], 2) == [True, False]  # half of them are enough, as in the paper
    assert majority(["", "?"], 2) == [False, False]


def test_the_script_writes_the_judges_own_prompt() -> None:
    text = prompt(Solution(TASK, f"{RIGHT}\n\n{LAST}"))
    assert text == f"{TASK.question}<step_0 {RIGHT}</step_0 <step_1 {LAST}</step_1 ?"


def test_f1_is_counted_over_all_steps_and_rounds() -> None:
    found = case([10.0, 20.0], errors=1)  # 80 wrong steps, and 2 more are named
    assert found.f1() == pytest.approx(2 * 80 / (82 + 80))
    report = found.report(40)
    low, high = report["f1_95"]
    assert low < found.f1() < high
    assert report["rollouts_per_s"] == pytest.approx(15)
    assert report["tokens_per_rollout"] == 4


def test_a_faster_way_with_a_lower_f1_does_not_count() -> None:
    theirs = case([10.0], errors=0)
    good, bad = case([20.0], errors=0), case([90.0], errors=8)
    assert is_as_good(good, theirs) and not is_as_good(bad, theirs)
    # Of the few errors of a small sample both limits say too little; each catches what the other misses.
    assert not is_as_good(case([1.0], errors=1, count=10), case([1.0], errors=0, count=10))
    assert not is_as_good(case([1.0], errors=6, count=800), case([1.0], errors=0, count=800))
    assert speedup(theirs, 8, {("early stopping", 8): good, (EXACT, 4): bad}) == (
        pytest.approx(2),
        "early stopping",
    )
    assert speedup(theirs, 8, {(EXACT, 4): bad}) == (None, "")


def test_exact_votes_count_for_every_k_and_other_votes_for_their_own() -> None:
    theirs = case([10.0], errors=0)
    four, exact = case([50.0], errors=0), case([30.0], errors=0)
    own = {("early stopping", 4): four, (EXACT, 4): exact}
    assert speedup(theirs, 4, own) == (pytest.approx(5), "early stopping")
    assert speedup(theirs, 8, own) == (pytest.approx(3), EXACT)


def test_the_longest_block_of_the_event_loop_is_that_of_all_runs() -> None:
    loops = [Loop({0.005: 90, 0.02: 1, 0.1: 0}), Loop({0.005: 80, 0.02: 0, 0.1: 0})]
    report = merged(loops).report()
    assert report["max_loop_block_ms"] == 20
    assert report["loop_wake_ups"] == {"5 ms": 170, "20 ms": 1, "100 ms": 0}


def test_engine_arguments_become_flags() -> None:
    assert flags("kv_cache_memory_bytes", 5) == ["--kv-cache-memory-bytes", "5"]
    assert flags("enforce_eager", True) == ["--enforce-eager"]
    assert flags("enable_prefix_caching", False) == ["--no-enable-prefix-caching"]


def test_rollouts_of_a_run_are_never_the_same_twice() -> None:
    made = Source()
    texts = [each["response"] for _ in range(3) for each in made.groups(2, 4)]
    assert len(set(texts)) == len(texts)


def test_renamed_rollouts_keep_their_labels_and_share_no_question() -> None:
    [original] = rollouts(1)
    variants = [renamed([original], variant)[0] for variant in range(64)]
    assert variants[0] == original
    assert variants[9].task.question == "Ben has 3 figs. Ben wins 4. How many figs now?"
    assert len({each.task.question for each in variants}) == 64
    assert {tuple(each.wrong()) for each in variants} == {tuple(original.wrong())}
