"""The estimates of docs/cost.md: its tables are those of bench/cost.py, and the arithmetic holds."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "bench"))

import cost

ROOT = Path(__file__).parents[2]
A100, H100 = cost.GPUS
SEVEN, _, _, SEVENTY_TWO = cost.JUDGES


@pytest.mark.parametrize("gpu", cost.GPUS, ids=lambda gpu: gpu.name)
def test_the_page_has_the_tables_that_the_script_prints(gpu: cost.Gpu) -> None:
    assert f"\n{cost.table(gpu)}" in (ROOT / "docs" / "cost.md").read_text("utf-8")


def test_the_page_states_the_assumptions_of_the_script() -> None:
    page = (ROOT / "docs" / "cost.md").read_text("utf-8")
    for gpu in cost.GPUS:
        assert f"{gpu.flops / 1e12:.0f} TFLOPS" in page and f"{gpu.bandwidth / 1e12:g} TB/s" in page
        assert f"{gpu.sequences:,} sequences" in page
    style, tokens = zip(*cost.WRITTEN.items(), strict=True)
    assert f"{tokens[0]}, {tokens[1]} and {tokens[2]} tokens" in page
    assert style == ("verdict", "brief", "full")
    for value in (cost.EFFICIENCY, cost.TENSOR_PARALLEL, cost.USABLE):
        assert f"{100 * value:.0f}%" in page
    assert f"{cost.INSTRUCTIONS} tokens" in page and f"{cost.TAGS} tokens" in page


def test_one_estimate_by_hand() -> None:
    """7B on an H100; 1,000 tokens in 10 steps; four brief critiques."""
    found = cost.estimate(H100, SEVEN, cost.Workload(1000, 10))
    read = 1000 + 10 * 28 + 440 / 16
    prompt = 1000 + 10 * 28 + 440
    operations = 2 * 7.6e9 * read + 2 * read * prompt * 28 * 3584
    assert found.reading == pytest.approx(operations / (0.5 * 989e12))
    # 55.4 GB of cache hold more than 1,024 sequences of 57,344 bytes a token.
    assert (found.gpus, found.sequences) == (1, 1024)
    moved = 15.2e9 + 1024 * (prompt + 35) * 57_344
    assert found.writing == pytest.approx(4 * 70 / 1024 * moved / (0.5 * 3.35e12))


def test_a_judge_gets_the_gpus_that_hold_its_weights_and_a_cache() -> None:
    assert [judge.gpus(H100) for judge in cost.JUDGES] == [1, 1, 2, 4]
    assert SEVENTY_TWO.cache(A100, 2) < 0


def test_more_work_costs_more() -> None:
    work = cost.Workload(4000, 40)
    more = [
        cost.Workload(8000, 80),
        cost.Workload(4000, 80),
        cost.Workload(4000, 40, critiques=8),
        cost.Workload(4000, 40, written=350),
    ]
    for gpu in cost.GPUS:
        for judge in cost.JUDGES:
            base = cost.estimate(gpu, judge, work).gpu_seconds
            assert all(cost.estimate(gpu, judge, each).gpu_seconds > base for each in more)


def test_values_are_rounded_to_two_digits() -> None:
    assert [cost.rounded(value) for value in (7.4, 43.2, 167.0, 16_432.0)] == [
        "7",
        "43",
        "170",
        "16,000",
    ]
