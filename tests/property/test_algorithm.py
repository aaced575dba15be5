"""The algorithm against plain-Python float64 loops written from the equations."""

from __future__ import annotations

import math
from itertools import groupby

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from capo_trainer import algorithm

VARIANTS = ("capo", "papo", "vppo", "pass", "rloo", "grpo", "centred")
EQUAL = 1e-6


# --- plain Python: a group is a list of rollouts, each (outcome, [process reward of each token])


def mean_and_deviation(values):
    mean = math.fsum(values) / len(values)
    return mean, math.sqrt(math.fsum((v - mean) ** 2 for v in values) / len(values))


def normalise(values, among):
    if not among:
        return [0.0] * len(values)
    mean, deviation = mean_and_deviation(among)
    return [0.0 if deviation < EQUAL else (v - mean) / deviation for v in values]


def plain_capo(group):
    rewards = [[o + p for p in process] for o, process in group]
    everything = [r for row in rewards for r in row]
    return [normalise(row, everything) for row in rewards]


def plain_grpo(group):
    outcomes = [o for o, process in group if process]
    return [[normalise([o], outcomes)[0]] * len(process) for o, process in group]


def plain_papo(group):
    outcomes = [o for o, process in group if process]
    better = [bool(process) and o > min(outcomes) + EQUAL for o, process in group]
    if not any(better):
        better = [bool(process) for _, process in group]
    among = [p for (_, process), b in zip(group, better, strict=True) if b for p in process]
    whole = plain_grpo(group)
    return [
        [w + (n if b else 0.0) for w, n in zip(row, normalise(process, among), strict=True)]
        for row, b, (_, process) in zip(whole, better, group, strict=True)
    ]


def plain_vppo(group):
    spread = []
    for outcome, process in group:
        first = next((t for t, p in enumerate(process) if p < 0), len(process))
        worst = min(process, default=0.0)
        spread.append((outcome, [worst if t >= first else 0.0 for t in range(len(process))]))
    return plain_capo(spread)


def plain_rloo(group):
    rewards = [[o + p for p in process] for o, process in group]
    result = []
    for i, row in enumerate(rewards):
        others = [r for j, other in enumerate(rewards) if j != i for r in other]
        base = math.fsum(others) / len(others) if others else None
        result.append([0.0 if base is None else r - base for r in row])
    return result


def plain_pass(group):
    """Algorithms 1 to 3 of arXiv 2606.29296, with one chunk for neighbours of equal reward."""
    chunks = [[(value, len(list(run))) for value, run in groupby(p)] for _, p in group]
    of_chunks = [value for row in chunks for value, _ in row]
    whole, result = plain_grpo(group), []
    for row, outcomes in zip(chunks, whole, strict=True):
        fused = [
            score + outcome
            for score, outcome in zip(
                normalise([value for value, _ in row], of_chunks), outcomes, strict=False
            )
        ]
        left = [math.fsum(fused[j:]) / (len(fused) - j) ** 0.7 for j in range(len(fused))]
        result.append([a for a, (_, size) in zip(left, row, strict=True) for _ in range(size)])
    return result


def plain_centred(group):
    rewards = [[o + p for p in process] for o, process in group]
    everything = [r for row in rewards for r in row]
    mean = math.fsum(everything) / len(everything) if everything else 0.0
    return [[r - mean for r in row] for row in rewards]


PLAIN = {
    "capo": plain_capo,
    "papo": plain_papo,
    "vppo": plain_vppo,
    "pass": plain_pass,
    "rloo": plain_rloo,
    "grpo": plain_grpo,
    "centred": plain_centred,
}

WEIGHTS = st.sampled_from([0.0, 0.1, 1.0, 2.0, 2.2, 5.0])
PENALTIES = st.sampled_from([0.0, 0.0, 0.25, 0.5, 1.0])
ROLLOUT = st.tuples(WEIGHTS, st.lists(PENALTIES, max_size=7).map(lambda ps: [-p for p in ps]))
GROUPS = st.lists(st.lists(ROLLOUT, min_size=1, max_size=5), min_size=1, max_size=4)


def tensors(groups, extra=0, junk=0.0):
    """Ragged groups as padded tensors; `junk` stands where the mask is False."""
    rows = [(g, o, p) for g, group in enumerate(groups) for o, p in group]
    width = max(len(p) for _, _, p in rows) + extra
    outcome = torch.tensor([o for _, o, _ in rows], dtype=torch.float64)
    process = torch.full((len(rows), width), junk, dtype=torch.float64)
    mask = torch.zeros((len(rows), width), dtype=torch.bool)
    for i, (_, _, p) in enumerate(rows):
        process[i, : len(p)] = torch.tensor(p, dtype=torch.float64)
        mask[i, : len(p)] = True
    return outcome, process, mask, torch.tensor([g for g, _, _ in rows])


@pytest.mark.parametrize("variant", VARIANTS)
@given(groups=GROUPS, extra=st.integers(0, 2), junk=st.sampled_from([0.0, math.nan, 1e30, -9.0]))
@settings(max_examples=150)
def test_advantages_are_those_of_the_equations(variant, groups, extra, junk):
    outcome, process, mask, numbers = tensors(groups, extra, junk)
    found = algorithm.advantages(outcome, process, mask, numbers, variant)
    assert found.dtype == torch.float32 and found.shape == mask.shape
    assert (found[~mask] == 0).all() and found.isfinite().all()
    wanted = [row for group in groups for row in PLAIN[variant](group)]
    for row, plain in zip(found, wanted, strict=True):
        assert row[: len(plain)].tolist() == pytest.approx(plain, abs=1e-5, rel=1e-5)


@pytest.mark.parametrize("variant", VARIANTS)
@given(groups=GROUPS, order=st.randoms(use_true_random=False))
@settings(max_examples=50)
def test_order_of_rollouts_and_names_of_groups_do_not_matter(variant, groups, order):
    outcome, process, mask, numbers = tensors(groups)
    shuffled = list(range(len(outcome)))
    order.shuffle(shuffled)
    plain = algorithm.advantages(outcome, process, mask, numbers, variant)
    other = algorithm.advantages(
        outcome[shuffled], process[shuffled], mask[shuffled], -3 * numbers[shuffled] + 7, variant
    )
    torch.testing.assert_close(other, plain[shuffled])


def test_equation_2_has_mean_0_and_deviation_1_over_the_tokens_of_a_group():
    outcome, process, mask, numbers = tensors(
        [[(2.0, [0, 0, -1.0]), (0.0, [0, -1.0]), (2.0, [0.0])]]
    )
    found = algorithm.advantages(outcome, process, mask, numbers)[mask]
    assert found.mean().item() == pytest.approx(0, abs=1e-6)
    assert found.std(correction=0).item() == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(
    "groups",
    [
        [[(2.0, [0.0, 0.0]), (2.0, [0.0])]],  # all right
        [[(0.0, [-1.0, -1.0]), (0.0, [-1.0])]],  # all wrong
        [[(2.0, [0.0])]],  # one token, alone
        [[(2.0, []), (0.0, [])]],  # nothing sampled
        [[(0.1, [0.0] * 7), (0.1, [0.0] * 3), (0.1, [0.0])]],  # equal but for rounding
    ],
)
def test_groups_with_nothing_to_prefer_get_zero(variant, groups):
    outcome, process, mask, numbers = tensors(groups, extra=1)
    found = algorithm.advantages(outcome, process, mask, numbers, variant)
    assert (found == 0).all()


def test_a_masked_rollout_does_not_move_its_group():
    outcome, process, mask, numbers = tensors(
        [[(2.0, [0.0, -1.0]), (0.0, [0.0]), (9.0, [-5.0, 0.0])]]
    )
    mask[2] = False
    for variant in VARIANTS:
        whole = algorithm.advantages(outcome, process, mask, numbers, variant)
        without = algorithm.advantages(outcome[:2], process[:2], mask[:2], numbers[:2], variant)
        torch.testing.assert_close(whole[:2], without)
        assert (whole[2] == 0).all()


def test_pass_is_the_return_to_go_of_chunks_over_a_power_of_their_number():
    """Two rollouts; the process of their chunks is 0, -1, 0 and -1: 1, -1, 1 and -1 once
    normalised. Outcomes are 1 and -1. So the chunks are worth 2, 0, 2 and -2."""
    process = [0.0, 0.0, 0.0, -1.0, 0.0, 0.0]
    outcome, process, mask, numbers = tensors([[(2.0, process), (0.0, [-1.0, -1.0])]], extra=1)
    found = algorithm.advantages(outcome, process, mask, numbers, "pass")
    first, second = 4 / 3**0.7, 2 / 2**0.7
    wanted = [[first] * 3 + [second] + [2.0] * 2 + [0.0], [-2.0] * 2 + [0.0] * 5]
    torch.testing.assert_close(found, torch.tensor(wanted))


@given(groups=GROUPS, data=st.data())
@settings(max_examples=100)
def test_pass_does_not_change_where_a_step_becomes_two_of_equal_reward(groups, data):
    """Nor by how long a step is: a token is repeated, or a token of a tool put in between."""
    outcome, process, mask, numbers = tensors(groups)
    width = mask.shape[1]
    if not width:
        return
    before = algorithm.advantages(outcome, process, mask, numbers, "pass")
    at = data.draw(st.integers(0, width - 1))
    order = [*range(at + 1), *range(at, width)]
    for inserted in (mask[:, at], torch.zeros(len(mask), dtype=torch.bool)):
        longer = mask[:, order].clone()
        longer[:, at + 1] = inserted
        found = algorithm.advantages(outcome, process[:, order], longer, numbers, "pass")
        rest = [*range(at + 1), *range(at + 2, width + 1)]
        torch.testing.assert_close(found[:, rest], before)
        torch.testing.assert_close(found[:, at + 1], before[:, at] * inserted)


@given(groups=GROUPS, weights=st.tuples(st.floats(0.1, 9), st.floats(0.1, 9)))
@settings(max_examples=50)
def test_pass_does_not_depend_on_the_weights_of_outcome_and_process(groups, weights):
    outcome, process, mask, numbers = tensors(groups)
    before = algorithm.advantages(outcome, process, mask, numbers, "pass")
    scaled = (outcome * weights[0], process * weights[1])
    found = algorithm.advantages(*scaled, mask, numbers, "pass")
    torch.testing.assert_close(found, before, atol=1e-5, rtol=1e-5)


@given(groups=GROUPS)
@settings(max_examples=50)
def test_pass_without_penalties_is_grpo(groups):
    outcome, process, mask, numbers = tensors(groups)
    none = torch.zeros_like(process)
    found = algorithm.advantages(outcome, none, mask, numbers, "pass")
    torch.testing.assert_close(found, algorithm.advantages(outcome, none, mask, numbers, "grpo"))


def test_generative_outcome_reward_is_equation_3():
    right, found = torch.tensor([1.0, 1.0, 0.0, 0.0]), torch.tensor([1.0, -1.0, 1.0, -1.0])
    rewards = algorithm.genorm_reward(right, found, alpha=2.0, beta=1.0)
    wanted = [
        1 / (1 + math.exp(-2 * m)) + (v - 1)
        for v, m in zip([1, 1, 0, 0], [1, -1, 1, -1], strict=True)
    ]
    assert rewards.tolist() == pytest.approx(wanted)


# --- the loss

NUMBERS = st.floats(-3, 3, width=32)


@st.composite
def losses(draw):
    rows = draw(st.lists(st.integers(0, 6), min_size=1, max_size=5))
    width = max([1, *rows])

    def values():
        return [[draw(NUMBERS) for _ in range(width)] for _ in rows]

    return rows, width, values(), values(), values(), values()


def plain_loss(rows, new, old, wanted, reference, low, high, beta, average):
    """-J of the paper: clipped objective less beta KL (k3), averaged as it says."""
    per_rollout = []
    for i, length in enumerate(rows):
        terms = []
        for t in range(length):
            ratio = math.exp(new[i][t] - old[i][t])
            clipped = min(max(ratio, 1 - low), 1 + high)
            d = reference[i][t] - new[i][t]
            terms.append(
                -min(ratio * wanted[i][t], clipped * wanted[i][t]) + beta * (math.exp(d) - d - 1)
            )
        per_rollout.append(terms)
    if average == "token":
        return math.fsum(map(math.fsum, per_rollout)) / max(sum(rows), 1)
    means = [math.fsum(terms) / len(terms) for terms in per_rollout if terms]
    return math.fsum(means) / max(len(means), 1)


def our_loss(new, old, wanted, reference, mask, low, high, beta, average):
    loss = algorithm.policy_loss(new, old, wanted, mask, (low, high))
    loss = loss + beta * algorithm.kl_to_reference(new, reference, mask)
    return (algorithm.token_weights(mask, average) * loss).sum()


@pytest.mark.parametrize("average", ["rollout", "token"])
@given(case=losses(), low=st.sampled_from([0.1, 0.2]), high=st.sampled_from([0.2, 0.28]))
@settings(max_examples=150)
def test_loss_is_that_of_the_paper(average, case, low, high):
    rows, width, *values = case
    mask = torch.tensor([[t < n for t in range(width)] for n in rows])
    new, old, wanted, reference = (torch.tensor(v, dtype=torch.float64) for v in values)
    found = our_loss(new, old, wanted, reference, mask, low, high, 0.01, average)
    assert found.item() == pytest.approx(
        plain_loss(rows, *values, low, high, 0.01, average), rel=1e-5, abs=1e-5
    )


@given(case=losses())
@settings(max_examples=60)
def test_gradients_are_those_of_small_differences(case):
    rows, width, *values = case
    mask = torch.tensor([[t < n for t in range(width)] for n in rows])
    new, old, wanted, reference = (torch.tensor(v, dtype=torch.float64) for v in values)
    # Away from the clip's two corners, where there is no derivative.
    ratio = (new - old).exp()
    corner = (torch.minimum((ratio - 0.8).abs(), (ratio - 1.2).abs()) < 1e-3) & mask
    new = torch.where(corner, new + 0.01, new).requires_grad_()

    def loss(logprobs):
        return our_loss(logprobs, old, wanted, reference, mask, 0.2, 0.2, 0.05, "rollout")

    loss(new).backward()
    assert (new.grad[~mask] == 0).all()
    for i, j in mask.nonzero().tolist():
        step = torch.zeros_like(new)
        step[i, j] = 1e-6
        with torch.no_grad():
            slope = (loss(new + step) - loss(new - step)).item() / 2e-6
        assert new.grad[i, j].item() == pytest.approx(slope, abs=1e-4, rel=1e-3)


@pytest.mark.parametrize("average", ["rollout", "token"])
def test_micro_batches_add_up_to_the_whole(average):
    torch.manual_seed(0)
    mask = torch.tensor([[1, 1, 1, 0], [1, 0, 0, 0], [0, 0, 0, 0], [1, 1, 1, 1]]).bool()
    whole = algorithm.token_weights(mask, average)
    total = float(algorithm.weight_total(mask, average))
    parts = [
        algorithm.token_weights(part, average, total) for part in (mask[:1], mask[1:3], mask[3:])
    ]
    torch.testing.assert_close(torch.cat(parts), whole)
    assert whole.sum().item() == pytest.approx(1)


def test_what_is_masked_may_be_anything():
    mask = torch.tensor([[True, False]])
    new = torch.tensor([[-1.0, math.nan]], requires_grad=True)
    old, wanted = torch.tensor([[-1.5, math.inf]]), torch.tensor([[1.0, math.nan]])
    loss = our_loss(new, old, wanted, old, mask, 0.2, 0.2, 0.1, "rollout")
    loss.backward()
    assert loss.isfinite() and new.grad[0, 0].isfinite() and new.grad[0, 1] == 0


def test_nothing_sampled_costs_nothing():
    mask = torch.zeros(2, 3, dtype=torch.bool)
    new = torch.zeros(2, 3, requires_grad=True)
    loss = our_loss(new, new, new, new, mask, 0.2, 0.2, 0.1, "rollout")
    loss.backward()
    assert loss == 0 and (new.grad == 0).all()


def test_the_clip_holds_back_only_what_went_far_enough():
    new = torch.log(torch.tensor([[1.5, 1.5, 0.5, 0.5, 1.1]]))
    wanted = torch.tensor([[1.0, -1.0, 1.0, -1.0, 1.0]])
    held = algorithm.clipped(new, torch.zeros(1, 5), wanted)
    assert held.tolist() == [[True, False, False, True, False]]
    new.requires_grad_()
    algorithm.policy_loss(new, torch.zeros(1, 5), wanted, torch.ones(1, 5).bool()).sum().backward()
    assert ((new.grad == 0) == held).all()


@given(d=st.floats(-5, 5))
def test_kl_estimate_is_never_negative(d):
    kl = algorithm.kl_to_reference(
        torch.zeros(1, 1), torch.full((1, 1), d), torch.ones(1, 1).bool()
    )
    assert kl.item() >= -1e-6
