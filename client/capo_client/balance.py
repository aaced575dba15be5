"""Which replica gets the next request: by its question, unless that replica is down or overloaded.

Rendezvous hashing (Thaler and Ravishankar, 1998) sends all rollouts of a question to one replica,
so that the question is in its prefix cache; adding or losing a replica moves only that replica's
questions. Above a bound on load (Mirrokni, Thorup and Zadimoghaddam, 2018), requests go to the
replica with the fewest tokens outstanding.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from capo_client.errors import ConfigurationError

_BOUND = 1.25  # times the mean load, up to which affinity decides
_NO_LOAD = 2_000  # tokens; with fewer outstanding, no replica is overloaded (bench/fleet_sim.py)
# Seconds that a replica is avoided after a failure, doubled for each consecutive one.
_LEAST_REST, _LONGEST_REST = 0.5, 30.0


class Replica:
    """One service, and its state as this client sees it."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.outstanding = 0  # approximate tokens of the requests in flight
        self.failures = 0  # consecutive
        self.rests_until = 0.0
        self.retry_seconds = math.inf  # for how long its last failure is retried

    def score(self, key: str) -> bytes:
        """Its rank among the replicas for a key; the highest score is the first choice."""
        return hashlib.blake2b(
            f"{self.url}\0{key}".encode(errors="replace"), digest_size=8
        ).digest()


class Balancer:
    """Chooses among replicas. Not thread-safe: one balancer for each event loop.

    Args:
        urls: those of the replicas, without repetition.
        clock: in seconds.

    Raises:
        ConfigurationError: no URL is given, or one is repeated.
    """

    def __init__(self, urls: Sequence[str], clock: Callable[[], float] = time.monotonic) -> None:
        if not urls or len(set(urls)) < len(urls):
            raise ConfigurationError(f"give one URL or several different ones, not {list(urls)}")
        self.replicas = [Replica(url) for url in urls]
        self._clock = clock

    def pick(self, key: str, tokens: int) -> Replica:
        """The replica for a request of approximately `tokens` tokens.

        A replica that failed is avoided for a while, then gets one request, and more after that
        succeeded. If all are avoided, the one whose time ends first is chosen.
        """
        usable = self._usable()
        if not usable:
            return min(self.replicas, key=lambda replica: replica.rests_until)
        first = max(usable, key=lambda replica: replica.score(key))
        load = sum(replica.outstanding for replica in usable) + tokens
        if first.outstanding + tokens <= max(_BOUND * load / len(usable), _NO_LOAD):
            return first
        return min(usable, key=lambda replica: replica.outstanding)

    @property
    def retry_seconds(self) -> float:
        """For how long a failure is retried: the longest time of any replica."""
        return max(replica.retry_seconds for replica in self.replicas)

    @property
    def any_usable(self) -> bool:
        """Whether a replica is usable, as far as is known."""
        return bool(self._usable())

    def _usable(self) -> list[Replica]:
        now = self._clock()
        return [
            replica
            for replica in self.replicas
            if replica.rests_until <= now and not (replica.failures and replica.outstanding)
        ]

    @contextmanager
    def sending(self, replica: Replica, tokens: int) -> Iterator[None]:
        """Count a request's tokens while it is in flight."""
        replica.outstanding += tokens
        try:
            yield
        finally:
            replica.outstanding -= tokens

    def answered(self, replica: Replica) -> None:
        """Note that a request succeeded."""
        replica.failures = 0
        replica.retry_seconds = math.inf

    def failed(self, replica: Replica, wait: float, retry_seconds: float = math.inf) -> None:
        """Note that a request failed. `wait`: the Retry-After of the response, in seconds."""
        replica.retry_seconds = retry_seconds
        rest = min(_LEAST_REST * 2.0 ** min(replica.failures, 16), _LONGEST_REST)
        replica.failures += 1
        replica.rests_until = self._clock() + max(rest, wait)
