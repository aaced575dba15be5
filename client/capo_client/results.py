"""The results of a call."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from capo_client.errors import CreditFailedError
from capo_wire import Credited, Failed, Usage


def with_token_rewards(result: Credited, mask: Sequence[int] | None = None) -> Credited:
    """A result with one reward per token, those of the steps; itself, if no tokens were sent.

    The client asks for no token rewards, which are a large part of a response, and makes them here.

    Args:
        result: the result.
        mask: the rollout's `response_mask`, if it was sent; tokens outside the steps get 0.0.

    Raises:
        ValueError: the steps do not have exactly the tokens that the policy sampled.
    """
    if result.token_rewards is not None or all(step.token_span is None for step in result.steps):
        return result
    by_token: list[float] = []
    for step in result.steps:
        start, end = step.token_span or (-1, -1)
        if mask is not None:
            while len(by_token) < start and not mask[len(by_token)]:
                by_token.append(0.0)
        if start != len(by_token) or end < start:
            raise ValueError(
                f"tokens {start} to {end} for step {step.index}, after {len(by_token)} tokens; is "
                "it a capo service?"
            )
        by_token += [step.reward] * (end - start)
    if mask is not None:
        if any(mask[len(by_token) :]):
            raise ValueError(f"no step for tokens after {len(by_token)}; is it a capo service?")
        by_token += [0.0] * (len(mask) - len(by_token))
    return result.model_copy(update={"token_rewards": by_token})


@dataclass(frozen=True, slots=True)
class CreditBatch:
    """Results in the order of the rollouts of the call."""

    results: list[Credited | Failed]

    def __iter__(self) -> Iterator[Credited | Failed]:
        return iter(self.results)

    def __len__(self) -> int:
        return len(self.results)

    def __getitem__(self, index: int) -> Credited | Failed:
        return self.results[index]

    @property
    def credited(self) -> list[Credited]:
        """The results that were credited."""
        return [result for result in self.results if isinstance(result, Credited)]

    @property
    def failed(self) -> list[Failed]:
        """The results that were not credited, each with its problem."""
        return [result for result in self.results if isinstance(result, Failed)]

    @property
    def usage(self) -> Usage:
        """The judge's tokens, summed over the batch."""
        return sum((result.usage for result in self.credited), Usage())

    def raise_for_errors(self) -> CreditBatch:
        """Return the batch itself, if all of it was credited.

        Raises:
            CreditFailedError: some rollouts were not credited.
        """
        if self.failed:
            raise CreditFailedError(self.failed)
        return self
