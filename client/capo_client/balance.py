"""Which replica gets the next request: where its question is known, if it is well and not busier.

Rendezvous hashing (Thaler and Ravishankar, 1998) sends all rollouts of a question to one replica,
whose judge then reads it once; adding or losing a replica moves only that replica's questions. A
bound on load (Mirrokni, Thorup and Zadimoghaddam, 2018) sends what is too much for it to the
replica with the fewest tokens outstanding.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from capo_client.errors import ConfigurationError

_BOUND = 1.25  # times the mean load: more than this, and affinity gives way
_NO_LOAD = 2_000  # tokens; with fewer outstanding, no replica is busy (bench/fleet_sim.py)
_LEAST_REST, _LONGEST_REST = 0.5, 30.0  # seconds; each failure in a row doubles the rest


class Replica:
    """One service, and what this client knows of it."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.outstanding = 0  # tokens sent and not yet answered, about
        self.failures = 0  # in a row
        self.rests_until = 0.0
        self.retry_seconds = math.inf  # for how long its last failure is tried again

    def score(self, key: str) -> bytes:
        """Its place in the order of replicas for a key: the highest comes first."""
        return hashlib.blake2b(
            f"{self.url}\0{key}".encode(errors="replace"), digest_size=8
        ).digest()


class Balancer:
    """Chooses among replicas. Not thread-safe; one event loop uses it.

    Args:
        urls: of the replicas, each once.
        clock: seconds.

    Raises:
        ConfigurationError: no URL is given, or one is repeated.
    """

    def __init__(self, urls: Sequence[str], clock: Callable[[], float] = time.monotonic) -> None:
        if not urls or len(set(urls)) < len(urls):
            raise ConfigurationError(f"give one URL or several different ones, not {list(urls)}")
        self.replicas = [Replica(url) for url in urls]
        self._clock = clock

    def pick(self, key: str, tokens: int) -> Replica:
        """The replica for a request of about so many tokens.

        One that failed rests, then gets a single request, and more once it has answered it. Where
        all rest, the one that has rested most is tried.
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
        """For how long a failure is tried again: as long as there is hope for one replica."""
        return max(replica.retry_seconds for replica in self.replicas)

    @property
    def any_usable(self) -> bool:
        """Whether a request would be sent to a replica that is well, as far as is known."""
        return bool(self._usable())

    def _usable(self) -> list[Replica]:
        now = self._clock()
        return [
            each for each in self.replicas
            if each.rests_until <= now and not (each.failures and each.outstanding)
        ]  # fmt: skip

    @contextmanager
    def sending(self, replica: Replica, tokens: int) -> Iterator[None]:
        """Count a request's tokens while it is under way."""
        replica.outstanding += tokens
        try:
            yield
        finally:
            replica.outstanding -= tokens

    def answered(self, replica: Replica) -> None:
        """It has answered a request to its end."""
        replica.failures = 0
        replica.retry_seconds = math.inf

    def failed(self, replica: Replica, wait: float, retry_seconds: float = math.inf) -> None:
        """It did not answer, or asked to be left alone for `wait` seconds."""
        replica.retry_seconds = retry_seconds
        rest = min(_LEAST_REST * 2.0 ** min(replica.failures, 16), _LONGEST_REST)
        replica.failures += 1
        replica.rests_until = self._clock() + max(rest, wait)
