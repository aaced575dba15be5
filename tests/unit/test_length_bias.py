"""Does an advantage favour long rollouts? Exact expectations with rewards that ignore length.

The outcome of a rollout, and each of its steps, is right or wrong by chance. Such rewards teach
nothing, so an advantage that is not 0 on average teaches the policy to write more or less.
"""

from __future__ import annotations

from functools import cache
from itertools import product
from typing import get_args

import pytest

torch = pytest.importorskip("torch")

from capo_trainer.algorithm import Advantage, advantages  # noqa: E402

STEPS = (1, 1, 4)  # of the rollouts of a question
TOKENS = 3  # of a step
WRONG = 0.22  # the probability that a step is wrong
UNBIASED = ("papo", "rloo", "grpo", "centred")


def probability(drawn: tuple[bool, ...], rate: float) -> float:
    result = 1.0
    for each in drawn:
        result *= rate if each else 1 - rate
    return result


@cache
def expected(variant: Advantage, right: float) -> list[tuple[float, float]]:
    """Of each rollout: its tokens' expected advantage, and the root of that of its square."""
    flags = (False, True)
    cases = [
        (outcomes, wrong)
        for outcomes in product(flags, repeat=len(STEPS))
        for wrong in product(flags, repeat=sum(STEPS))
    ]
    chances = torch.tensor(
        [probability(o, right) * probability(w, WRONG) for o, w in cases]
    ).double()
    size = len(cases) * len(STEPS)
    process = torch.zeros(size, max(STEPS) * TOKENS)
    mask = torch.zeros_like(process, dtype=torch.bool)
    for row, (case, number) in enumerate(product(range(len(cases)), range(len(STEPS)))):
        first, length = sum(STEPS[:number]), STEPS[number]
        steps = torch.tensor(cases[case][1][first : first + length])
        process[row, : length * TOKENS] = -steps.float().repeat_interleave(TOKENS)
        mask[row, : length * TOKENS] = True
    outcome = torch.tensor([2.0 * each for outcomes, _ in cases for each in outcomes])
    groups = torch.arange(len(cases)).repeat_interleave(len(STEPS))
    found = advantages(outcome, process, mask, groups, variant).double()
    means = (found.sum(1) / mask.sum(1)).view(len(cases), len(STEPS))
    averages = (means * chances[:, None]).sum(0)
    roots = (means**2 * chances[:, None]).sum(0).sqrt()
    return list(zip(averages.tolist(), roots.tolist(), strict=True))


@pytest.mark.parametrize("right", [0.15, 0.85])
@pytest.mark.parametrize("variant", UNBIASED)
def test_no_length_is_favoured(variant: Advantage, right: float) -> None:
    assert [average for average, _ in expected(variant, right)] == pytest.approx(
        [0.0] * len(STEPS), abs=1e-6
    )


def test_equation_2_favours_long_rollouts_where_most_are_right_and_short_ones_where_few_are() -> (
    None
):
    (short, _), _, (long, _) = expected("capo", 0.85)
    assert (round(short, 3), round(long, 3)) == (-0.024, 0.012)
    (short, _), _, (long, _) = expected("capo", 0.15)
    assert short > 0.02 and long < -0.01
    (short, _), _, (long, _) = expected("capo", 0.5)
    assert abs(short) < 0.005 and abs(long) < 0.005


def test_equation_2_moves_the_tokens_of_a_long_rollout_less() -> None:
    """It is a large part of the mean that is subtracted from it."""
    (_, short), _, (_, long) = expected("capo", 0.85)
    assert (round(short, 2), round(long, 2)) == (1.14, 0.39)
    for variant in ("rloo", "grpo"):
        (_, short), _, (_, long) = expected(variant, 0.85)
        assert 0.9 < long / short < 1.1


def test_vppo_penalises_long_rollouts_and_pass_encourages_short_ones() -> None:
    (short, _), _, (long, _) = expected("vppo", 0.85)
    assert (round(short, 2), round(long, 2)) == (0.20, -0.10)
    (short, _), _, (long, _) = expected("pass", 0.85)
    assert (round(short, 2), round(long, 2)) == (0.13, 0.02)


def test_every_variant_is_looked_at() -> None:
    assert {*UNBIASED, "capo", "vppo", "pass"} == set(get_args(Advantage))
