"""What both clients are made of, short of waiting."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import httpx
from pydantic import BaseModel, ValidationError

from capo_client import errors
from capo_client.chunk import Answer, Chunk, Position, RolloutLike, make_options, refusal, split
from capo_client.retry import RetryPolicy

Progress = Callable[[int, int], None]

DEFAULT_URL = "http://127.0.0.1:8000"
HEADERS = {"Content-Type": "application/json", "Accept": "application/x-ndjson"}
_PROBE_SECONDS = 10.0
BETWEEN_PROBES = 0.5

M = TypeVar("M", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class GivenUp:
    """A chunk that could not be credited to its end, and why."""

    error: errors.UnavailableError | errors.DeadlineExceededError
    failed: list[tuple[Position, Answer]]


def settle(given_up: Sequence[GivenUp], delivered: bool) -> list[tuple[Position, Answer]]:
    """Failed results of what was given up; raises its error where nothing else was delivered."""
    if given_up and not delivered:
        raise given_up[0].error
    return [item for chunk in given_up for item in chunk.failed]


class ClientBase:
    """What both clients are made with.

    Args:
        url: the service; by default CAPO_URL, or this machine's port 8000.
        api_key: sent as Bearer; by default CAPO_API_KEY.
        batch_size: rollouts in one request. Keep rollouts of one question together: the judge
            reads their common beginning once.
        concurrency: requests at once.
        retry: when to try again.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        api_key: str | None = None,
        batch_size: int = 16,
        concurrency: int = 8,
        retry: RetryPolicy | None = None,
    ) -> None:
        if batch_size < 1 or concurrency < 1:
            raise ValueError("batch_size and concurrency must be at least 1")
        self.url = (url or os.environ.get("CAPO_URL") or DEFAULT_URL).rstrip("/")
        self.batch_size = batch_size
        self.concurrency = concurrency
        self.retry = retry or RetryPolicy()
        key = api_key or os.environ.get("CAPO_API_KEY")
        self._settings: dict[str, Any] = {
            "base_url": self.url,
            "headers": {"Authorization": f"Bearer {key}"} if key else {},
            "limits": httpx.Limits(max_connections=concurrency + 2),
            "timeout": _PROBE_SECONDS,
        }

    def _chunks(
        self, rollouts: Sequence[RolloutLike], deadline: float, options: dict[str, Any]
    ) -> list[Chunk]:
        until = time.monotonic() + deadline
        return split(rollouts, make_options(**options), self.batch_size, self.retry, until)


def read(response: httpx.Response, model: type[M]) -> M:
    """The body of an answer, or what its status stands for, raised."""
    if not response.is_success:
        raise refusal(response)
    try:
        return model.model_validate_json(response.content)
    except ValidationError as error:
        raise errors.InvalidResponseError(
            f"{response.url} answered {response.text[:200]!r}; is it a capo service?"
        ) from error
