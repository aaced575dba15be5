"""Whether a result keeps the structure that the HTTP API promises, whatever the judge says."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby, pairwise

import capo_wire as wire
from capo_wire.segmentation import Span


def broken(rollout: wire.Rollout, result: wire.Credited) -> str | None:
    """How the result violates the HTTP API, in steps, critiques or token rewards; None if not."""
    response, observed = rollout.trajectory()
    offsets = rollout.token_offsets or []
    mask = [int(own) for own in rollout.response_mask or [1] * len(offsets)]
    steps, rewards = result.steps, result.token_rewards or []
    if [step.index for step in steps] != list(range(len(steps))):
        return "steps are not numbered from 0"
    others = observed or _not_sampled(offsets, mask)
    if _gaps([step.span for step in steps], len(response)) != others:
        return "steps do not tile what the policy wrote"
    if any(tuple(each.span) not in others for each in result.observations or ()):
        return "an observation is reported where the policy wrote"
    if len(rewards) != len(offsets):
        return f"{len(rewards)} rewards for {len(offsets)} tokens"
    owners = [0] * len(offsets)
    for step in steps:
        for token in range(*(step.token_span or (0, 0))):
            owners[token] += 1
            if rewards[token] != step.reward:
                return "a token has another reward than its step"
    if owners != mask:
        return "a token of the policy belongs to no step, or to two, or another token to one"
    if any(reward for reward, own in zip(rewards, mask, strict=True) if not own):
        return "a token that the policy did not write has a reward"
    for critique in result.critiques or ():
        wrong = critique.wrong_steps or []
        if wrong != sorted(set(wrong)) or any(not 0 <= step < len(steps) for step in wrong):
            return f"a critique names steps {wrong}"
    return None


def _not_sampled(offsets: Sequence[Span], mask: Sequence[int]) -> list[Span]:
    """The spans of runs of tokens that the policy did not sample."""
    runs = (list(run) for own, run in groupby(range(len(mask)), mask.__getitem__) if not own)
    return [(offsets[run[0]][0], offsets[run[-1]][1]) for run in runs]


def _gaps(spans: Sequence[Span], length: int) -> list[Span]:
    """What of a text is in none of its spans, in order; overlaps are gaps too."""
    edges = [0, *(edge for span in spans for edge in span), length]
    return [(a, b) for a, b in list(pairwise(edges))[::2] if a != b]
