"""Cache of results: in this process, or in Redis for all replicas.

An entry is the whole result, with its critiques. A failure of the cache is a cache miss: the
rollout is judged, and the failure is counted.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Protocol

from cachetools import TTLCache
from pydantic import ValidationError

import capo_wire as wire
from capo_service.settings import Settings

log = logging.getLogger(__name__)

_REDIS_SECONDS = 0.5  # timeout of one operation
_RETRY_SECONDS = 5.0  # after a failure, until Redis is tried again


class ResultCache(Protocol):
    """Results by the digest of everything that can change them."""

    async def get(self, key: str) -> wire.Credited | None:
        """The result of a key; None if there is none, or it has expired."""

    async def put(self, key: str, result: wire.Credited) -> None:
        """Store a result for the configured time, if there is space."""

    async def close(self) -> None:
        """Close connections."""


class NoCache:
    """A cache that is always empty."""

    async def get(self, key: str) -> wire.Credited | None:
        return None

    async def put(self, key: str, result: wire.Credited) -> None:
        return None

    async def close(self) -> None:
        return None


class MemoryCache:
    """In this process.

    Args:
        size: maximum bytes of results as JSON; the least recently used are evicted.
        seconds: time to live of a result.
    """

    def __init__(
        self, size: int, seconds: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._kept: TTLCache[str, bytes] = TTLCache(size, seconds, timer=clock, getsizeof=len)

    async def get(self, key: str) -> wire.Credited | None:
        text = self._kept.get(key)
        return wire.Credited.model_validate_json(text) if text is not None else None

    async def put(self, key: str, result: wire.Credited) -> None:
        text = result.model_dump_json().encode()
        if len(text) <= self._kept.maxsize:
            self._kept[key] = text

    async def close(self) -> None:
        self._kept.clear()


class RedisCache:
    """In Redis, for all replicas that share it; its size is Redis' `maxmemory`.

    Args:
        url: redis://, rediss:// or unix://.
        seconds: time to live of a result.
        on_error: called at every failure.

    Raises:
        ValueError: the Redis client is not installed, or the URL is invalid.
    """

    def __init__(self, url: str, seconds: float, on_error: Callable[[], None]) -> None:
        try:
            from redis import asyncio as redis
            from redis.exceptions import RedisError
        except ImportError as error:
            raise ValueError(
                f"result_cache {url} needs the client: pip install 'capo-credit[redis]'"
            ) from error
        self._redis = redis.Redis.from_url(
            url, socket_timeout=_REDIS_SECONDS, socket_connect_timeout=_REDIS_SECONDS
        )
        self._errors = (RedisError, OSError, ValidationError)
        self._seconds = seconds
        self._on_error = on_error
        self._retry_at = 0.0

    async def get(self, key: str) -> wire.Credited | None:
        if time.monotonic() < self._retry_at:
            return None
        try:
            text = await self._redis.get(_name(key))
            return wire.Credited.model_validate_json(text) if text is not None else None
        except self._errors as error:
            self._failed(error)
            return None

    async def put(self, key: str, result: wire.Credited) -> None:
        if time.monotonic() < self._retry_at:
            return
        try:
            text = result.model_dump_json().encode()
            await self._redis.set(_name(key), text, px=max(1, int(self._seconds * 1000)))
        except self._errors as error:
            self._failed(error)

    def _failed(self, error: Exception) -> None:
        self._on_error()
        self._retry_at = time.monotonic() + _RETRY_SECONDS
        log.warning("result cache unavailable, retrying in %g s: %s", _RETRY_SECONDS, error)

    async def close(self) -> None:
        await self._redis.aclose()


def _name(key: str) -> str:
    return f"capo:result:{key}"


def make_cache(settings: Settings, on_error: Callable[[], None]) -> ResultCache:
    """The cache that the settings name.

    Raises:
        ValueError: it cannot be used as configured.
    """
    where, seconds = settings.result_cache, settings.result_cache_seconds
    if where == "none":
        return NoCache()
    if where == "memory":
        return MemoryCache(settings.result_cache_bytes, seconds)
    return RedisCache(where, seconds, on_error)
