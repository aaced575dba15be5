"""The results of a call."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from capo_client.errors import CreditFailedError
from capo_wire import Credited, Failed, Usage


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
