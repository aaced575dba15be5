"""Intervals, FLOPs and exact votes of the experiment, against numbers computed by hand."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from capo_testbed.experiment.compute import Cost, Shape, pairs, run_flops
from capo_testbed.experiment.equal_compute import _LOOKED_AT, _crossing, interpolated
from capo_testbed.experiment.exact_votes import voted
from capo_testbed.experiment.intervals import (
    Interval,
    blocks,
    paired,
    part_of_the_way,
    quantiles,
    student,
    t95,
)
from capo_testbed.experiment.judges import measured
from capo_testbed.simulated import Rates
from capo_trainer.types import (
    Prompt,
    RolloutCredit,
    SampledRollout,
    SampleRequest,
    StepCredit,
    StepSamples,
)

CONFIG = {
    "num_hidden_layers": 6,
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "head_dim": 32,
    "vocab_size": 1033,
}
QUESTION = "Ann has 37 coins. Ann wins 25. How many coins now?"


def test_an_interval_is_students() -> None:
    # numpy and scipy would say: mean 2, sd 1, t(2, 0.975) = 4.302653.
    found = student([1.0, 2.0, 3.0])
    assert found.mean == 2.0 and found.high == pytest.approx(2 + 4.302653 / 3**0.5, rel=1e-4)
    assert student([0.5]) == Interval(0.5, None, None, 1)
    # Tables of Student's t.
    assert t95(10) == pytest.approx(2.2281, abs=1e-3) and t95(76) == pytest.approx(1.9917, abs=1e-3)


def test_differences_are_paired_by_seed() -> None:
    first, second = {0: 0.7, 1: 0.8, 3: 0.9}, {0: 0.6, 1: 0.6, 2: 0.1}
    found = paired(first, second)
    assert found and found.seeds == 2 and found.mean == pytest.approx(0.15)
    assert found.high == pytest.approx(0.15 + 12.706 * math.sqrt(0.005) / math.sqrt(2))
    assert paired(first, {7: 1.0}) is None
    assert found.scaled(100).gain() == "+15.0 [-48.5, 78.5]"
    assert student([1.0, 2.0, 3.0]).level() == "2.0 ± 2.5"


def test_few_seeds_share_one_deviation() -> None:
    # Without noise the model is exact: setting + seed.
    values = {
        name: {seed: base + 0.1 * seed for seed in range(3)}
        for name, base in (("grpo", 0.5), ("a", 0.6), ("b", 0.8))
    }
    exact = blocks(values, "grpo")
    assert exact["a"].mean == pytest.approx(0.1) and exact["b"].low == pytest.approx(0.3)
    # By hand: residuals of +-0.25 in 2 settings and 2 seeds; freedom 1; 2 * 0.25 / 1 / 2.
    found = blocks({"grpo": {0: 0.0, 1: 1.0}, "a": {0: 1.0, 1: 1.0}}, "grpo")["a"]
    assert found.high == pytest.approx(0.5 + 12.706 * math.sqrt(2 * 0.25 / 2))


def test_the_part_of_the_way_to_the_oracle() -> None:
    start, end = {0: 0.5, 1: 0.6, 2: 0.55}, {0: 0.7, 1: 0.8, 2: 0.75}
    half = {seed: (start[seed] + end[seed]) / 2 for seed in start}
    found = part_of_the_way(half, start, end)
    assert found and found.mean == pytest.approx(0.5) and found.low == pytest.approx(0.5)
    assert part_of_the_way(half, start, start) is None
    # An oracle that does not differ from GRPO: every part is possible.
    assert part_of_the_way(half, start, {0: 0.6, 1: 0.4, 2: 0.56}) is None


@given(st.lists(st.tuples(*[st.floats(-0.02, 0.02)] * 3), min_size=5, max_size=5))
def test_fiellers_interval_holds_the_shares_that_pairs_allow(
    noise: list[tuple[float, ...]],
) -> None:
    start = {seed: 0.5 + n[0] for seed, n in enumerate(noise)}
    value = {seed: 0.6 + n[1] for seed, n in enumerate(noise)}
    end = {seed: 0.8 + n[2] for seed, n in enumerate(noise)}
    found = part_of_the_way(value, start, end)
    assert found and found.low is not None and found.high is not None
    assert found.low - 1e-9 <= found.mean <= found.high + 1e-9
    for share in (found.low, found.high):
        left = {s: value[s] - start[s] - share * (end[s] - start[s]) for s in start}
        edge = student(list(left.values()))
        assert edge.low is not None and edge.high is not None
        assert min(abs(edge.low), abs(edge.high)) < 1e-6  # 0 is on the edge of its interval


def test_quantiles_may_be_infinite() -> None:
    assert quantiles([1.0, math.inf, 2.0], 0.0, 1.0) == (1.0, math.inf)


def test_parameters_are_those_of_the_testbeds_policy() -> None:
    shape = Shape.of_config(CONFIG)
    # 6 layers of 4 * 128 * 128 + 3 * 128 * 256; and 1033 embeddings of 128.
    assert shape.matrices == 6 * (65_536 + 98_304) == 983_040
    assert shape.parameters == 983_040 + 132_224
    grouped = Shape.of_config(CONFIG | {"num_key_value_heads": 2, "head_dim": None})
    assert grouped.matrices == 6 * (2 * 128 * 128 + 2 * 128 * 64 + 98_304)
    assert shape.cost == Cost(token=1_966_080, logits=264_448, pair=4 * 6 * 128)
    assert shape.cost.scaled(8).pair == pytest.approx(4 * shape.cost.pair)


def test_flops_of_a_run_by_hand() -> None:
    policy, judge = Cost(token=10, logits=3, pair=1), Cost(token=100, logits=30, pair=1)
    total = {
        "rollouts": 2,
        "prompt_tokens": 4,  # 2 each
        "tokens": 6,  # 3 each
        "critiques": 4,
        "judge_prompt_tokens": 40,  # 10 each, of which 6 are cached
        "judge_cached_tokens": 24,
        "judge_completion_tokens": 8,  # 2 each
    }
    found = run_flops(total, policy, judge)
    assert pairs(5) == 15
    forward = 2 * (10 * 5 + 15 + 3 * 3)
    assert found.prefill == 2 * (10 * 2 + 3)
    assert found.prefill + found.decode == forward
    assert found.training == 4 * forward  # old log-probabilities, forward, and twice for backward
    assert found.judge_prefill == 4 * (100 * 4 + 10)
    assert found.judge_decode == 4 * ((100 + 30) * 2 + 2 * 4 + 3)
    assert found.judge_cached == 4 * 6 * (4 + 2)
    # All attention of the judge: of 12 tokens, without that among the 6 cached ones.
    assert 4 * (10 + 2 * 4 + 3) + found.judge_cached == 4 * (pairs(12) - pairs(6))
    assert found.total == found.policy + found.judge
    assert run_flops(total, policy, judge, epochs=2, old=False).training == 6 * forward
    assert run_flops(total | {"critiques": 0}, policy, judge).judge == 0
    assert run_flops({"rollouts": 0}, policy, judge).total == 0


def test_accuracy_is_interpolated_over_the_logarithm() -> None:
    points = [(1.0, 0.5), (100.0, 0.7), (10.0, 0.6)]
    assert interpolated(points, 10.0) == pytest.approx(0.6)
    assert interpolated(points, 10**1.5) == pytest.approx(0.65)
    assert interpolated(points, 120.0) == pytest.approx(0.7 + 0.1 * math.log10(1.2))
    assert interpolated(points, 130.0) is None and interpolated(points, 0.7) is None
    assert interpolated(points[:1], 1.0) is None


def test_the_size_at_which_the_gain_is_gone() -> None:
    # GRPO gains 0.1 with each tenfold compute; the arm, at 0.65, costs 1 + size.
    points = [(1.0, 0.5), (10.0, 0.6), (100.0, 0.7)]
    flops = [1 + size for size in _LOOKED_AT]
    size, _ = _crossing(points, flops, 0.65)
    assert size == pytest.approx(10**1.5 - 1, rel=0.02)
    never, largest = _crossing(points, flops, 0.9)
    assert never == math.inf and largest == pytest.approx(124, rel=0.16)
    assert _crossing(points, flops, 0.4)[0] == _LOOKED_AT[0]


def test_votes_of_independent_errors_by_hand() -> None:
    rates = Rates(precision=0.6, recall=0.6)
    alarm = rates.false_alarm
    both = voted(rates, "intersection", 2)
    assert both.recall == pytest.approx(0.36) and both.false_alarm == pytest.approx(alarm**2)
    either = voted(rates, "union", 2)
    assert either.misses == pytest.approx(0.16)
    # Three or four of four, or a tie.
    most = voted(rates, "majority", 4)
    assert most.recall == pytest.approx(0.6**4 + 4 * 0.6**3 * 0.4 + 6 * 0.6**2 * 0.4**2)
    mean = voted(rates, "average", 4)
    assert mean.recall == pytest.approx(0.6) and mean.precision == pytest.approx(0.6)
    assert mean.noise == pytest.approx(math.sqrt(0.6 * 0.4 / 4))
    assert voted(rates, "greedy", 1).precision == pytest.approx(0.6)
    assert voted(Rates(), "majority", 4).signal == 1.0


@given(st.floats(0.3, 1.0), st.floats(0.3, 1.0), st.sampled_from([1, 2, 4, 8]))
def test_votes_are_ordered(precision: float, recall: float, k: int) -> None:
    rates = Rates(precision=precision, recall=recall)
    few, most, any_ = (voted(rates, m, k) for m in ("intersection", "majority", "union"))
    assert few.recall <= most.recall + 1e-12 and most.recall <= any_.recall + 1e-12
    assert few.false_alarm <= most.false_alarm + 1e-12
    assert most.false_alarm <= any_.false_alarm + 1e-12


def test_a_judge_is_measured_against_the_checker() -> None:
    request = SampleRequest(Prompt(0, QUESTION, "62"), [1], "key")
    text = "37 + 25 = 52\n\nThe answer is \\boxed{52}."

    def rollout() -> SampledRollout:
        return SampledRollout(request, [1, 2], text, True)

    credit = StepCredit({0: RolloutCredit([], [True, True]), 1: RolloutCredit([], [False, False])})
    samples = StepSamples([rollout(), rollout(), rollout()], [0.0] * 3, credit, 1.0)
    found = measured("judge", samples)
    assert (found.steps, found.wrong_steps, found.rollouts, found.uncredited) == (4, 2, 2, 1)
    assert found.precision == 0.5 and found.recall == 0.5 and found.f1 == 0.5
