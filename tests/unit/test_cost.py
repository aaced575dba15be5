"""The estimates of docs/cost.md: its tables are those of bench/cost.py, and the arithmetic holds."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "bench"))

import cost
import estimates
import training_step
from estimates import A100, H100

ROOT = Path(__file__).parents[2]
SEVEN, _, THIRTY_TWO, SEVENTY_TWO = estimates.JUDGES


@pytest.mark.parametrize("gpu", estimates.GPUS, ids=lambda gpu: gpu.name)
def test_the_page_has_the_tables_that_the_script_prints(gpu: estimates.Gpu) -> None:
    assert f"\n{cost.table(gpu)}" in (ROOT / "docs" / "cost.md").read_text("utf-8")


def test_the_page_compares_the_formula_with_published_measurements() -> None:
    assert f"\n{cost.published()}" in (ROOT / "docs" / "cost.md").read_text("utf-8")


def test_the_formula_agrees_with_published_measurements() -> None:
    for each in estimates.PUBLISHED:
        assert 0.9 < each.estimated / each.rate < 1.1


def test_the_page_has_the_arithmetic_of_a_training_step() -> None:
    page = (ROOT / "docs" / "cost.md").read_text("utf-8")
    assert f"\n{cost.STEP_COLUMNS}" in page
    for judge, style in training_step.cases():
        assert f"\n{cost.step_row(judge, style)} " in page
    assert f"{training_step.STEP:.0f} s" in page
    assert f"{training_step.TRAINER_RATE} tokens per second and GPU" in page


def test_rollouts_that_are_sent_at_the_end_wait_as_the_arithmetic_says() -> None:
    brief = training_step.STYLES[2]
    replica = training_step.chosen(H100, SEVEN, brief)
    count, _ = training_step.arithmetic(replica)
    wait = training_step.simulate(replica, count, streamed=False)
    assert training_step.ALLOWED < wait < 1.3 * training_step.ALLOWED


def test_a_replica_gets_the_gpus_that_answer_one_rollout_in_time() -> None:
    replica = training_step.chosen(H100, THIRTY_TWO, training_step.THINKING)
    limit = training_step.ALLOWED * training_step.STEP
    assert replica.seconds(1) <= limit < replace(replica, gpus=replica.gpus // 2).seconds(1)


def test_a_full_replica_is_as_fast_as_the_estimate_of_a_saturated_one() -> None:
    replica = training_step.chosen(H100, SEVEN, training_step.STYLES[2])
    full = replica.seconds(replica.slots) / replica.slots
    assert full == pytest.approx(replica.estimate.reading + replica.estimate.writing, rel=0.01)


def test_the_page_states_the_assumptions_of_the_script() -> None:
    page = (ROOT / "docs" / "cost.md").read_text("utf-8")
    for gpu in estimates.GPUS:
        assert f"{gpu.flops / 1e12:.0f} TFLOPS" in page and f"{gpu.bandwidth / 1e12:g} TB/s" in page
        assert f"{gpu.sequences:,} sequences" in page
        assert f"efficiency {gpu.efficiency:.0%}" in page
    style, tokens = zip(*estimates.WRITTEN.items(), strict=True)
    assert f"{tokens[0]}, {tokens[1]} and {tokens[2]} tokens" in page
    assert style == ("verdict", "brief", "full")
    for value in (estimates.TENSOR_PARALLEL, estimates.USABLE):
        assert f"{100 * value:.0f}%" in page
    assert f"{estimates.INSTRUCTIONS} tokens" in page and f"{estimates.STEP_HEAD} tokens" in page


def test_one_estimate_by_hand() -> None:
    """7B on an H100; 1,000 tokens in 10 steps; four brief critiques."""
    found = estimates.estimate(H100, SEVEN, estimates.Workload(1000, 10))
    read = 1000 + 10 * 7 + 440 / 16
    prompt = 1000 + 10 * 7 + 440
    operations = 2 * 7.6e9 * read + 2 * read * prompt * 28 * 3584
    assert found.reading == pytest.approx(operations / (0.4 * 989e12))
    # 55.4 GB of cache hold more than 1,024 sequences of 57,344 bytes a token.
    assert (found.gpus, found.sequences) == (1, 1024)
    moved = 15.2e9 + 1024 * (prompt + 35) * 57_344
    assert found.writing == pytest.approx(4 * 70 / 1024 * moved / (0.4 * 3.35e12))


def test_a_judge_gets_the_gpus_that_hold_its_weights_and_a_cache() -> None:
    assert [judge.gpus(H100) for judge in estimates.JUDGES] == [1, 1, 2, 4]
    assert SEVENTY_TWO.cache(A100, 2) < 0


def test_more_work_costs_more() -> None:
    work = estimates.Workload(4000, 40)
    more = [
        estimates.Workload(8000, 80),
        estimates.Workload(4000, 80),
        estimates.Workload(4000, 40, critiques=8),
        estimates.Workload(4000, 40, written=350),
    ]
    for gpu in estimates.GPUS:
        for judge in estimates.JUDGES:
            base = estimates.estimate(gpu, judge, work).gpu_seconds
            assert all(estimates.estimate(gpu, judge, each).gpu_seconds > base for each in more)


def test_values_are_rounded_to_two_digits() -> None:
    assert [cost.rounded(value) for value in (7.4, 43.2, 167.0, 16_432.0)] == [
        "7",
        "43",
        "170",
        "16,000",
    ]
