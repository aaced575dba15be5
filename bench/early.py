"""Share of judge tokens that early stopping needs, computed from full votes, by method and k."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import AutoTokenizer

from capo_client import CreditBatch
from capo_service.core.vote_rules import Method
from capo_service.core.voting import VoteCount
from capo_service.engine import embedded

METHODS: tuple[Method, ...] = ("intersection", "majority", "union", "average")
Recorded = tuple[frozenset[int] | None, int]  # what a critique says, and its tokens


def token_ratios(full: CreditBatch) -> dict[str, list[float]]:
    """For each method, at k = 1, 2, ...: tokens of the critiques that start, of those of all k.

    Critiques start in their order, and all critiques of a wave count.
    """
    # Only ratios matter, so one tokenizer serves for every judge.
    tokenizer = AutoTokenizer.from_pretrained(embedded.folder())
    rollouts = []
    for each in full.credited:
        critiques: list[Recorded] = [
            (frozenset(c.wrong_steps) if c.wrong_steps is not None else None,
             len(tokenizer.encode(c.text)) + 1)
            for c in each.critiques or ()
        ]  # fmt: skip
        rollouts.append((len(each.steps), critiques))
    most = min(len(critiques) for _, critiques in rollouts)
    return {
        method: [
            sum(bought(method, steps, critiques[:k]) for steps, critiques in rollouts)
            / sum(tokens for _, critiques in rollouts for _, tokens in critiques[:k])
            for k in range(1, most + 1)
        ]
        for method in METHODS
    }


def bought(method: Method, n_steps: int, critiques: Sequence[Recorded]) -> int:
    """Tokens of the critiques that are begun, as `Creditor` begins them on a busy engine."""
    done = 0
    while True:
        votes = VoteCount.of([said for said, _ in critiques[:done]], n_steps)
        remaining = len(critiques) - done
        if votes.decided(method, remaining):
            return sum(tokens for _, tokens in critiques[:done])
        done += votes.next_wave(method, remaining)


def lockstep(
    method: Method, n_steps: int, critiques: Sequence[Recorded], waves: bool
) -> tuple[int, int]:
    """Tokens of the critiques that are begun, and engine steps until the vote is decided.

    All critiques that run sample one token a step, and a decided vote ends them.

    Args:
        method: the voting method.
        n_steps: number of the rollout's steps.
        critiques: all k critiques of the full vote, in their order.
        waves: whether they start in waves, as on a busy engine; else all start at once.
    """
    cast: list[frozenset[int] | None] = []
    tokens = steps = 0
    while True:
        votes, remaining = VoteCount.of(cast, n_steps), len(critiques) - len(cast)
        if votes.decided(method, remaining):
            return tokens, steps
        size = votes.next_wave(method, remaining) if waves else remaining
        wave = sorted(critiques[len(cast) : len(cast) + size], key=lambda critique: critique[1])
        last = 0
        for said, length in wave:
            last = length
            cast.append(said)
            if VoteCount.of(cast, n_steps).decided(method, len(critiques) - len(cast)):
                break
        tokens += sum(min(length, last) for _, length in wave)
        steps += last
