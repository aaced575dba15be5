"""The retry policy that the client and the service's upstream engine share."""

from __future__ import annotations

import pytest

from capo_wire.retry_policy import (
    GATEWAY_ERRORS,
    OVERLOADED,
    RETRYABLE,
    RETRYABLE_UPSTREAM,
    retry_after,
    wait_seconds,
)


@pytest.mark.parametrize("jitter", [0.0, 0.5, 1.0])
def test_waits_double_within_their_jitter_up_to_the_longest(jitter: float) -> None:
    for attempt in range(1, 2000):
        backoff = min(30.0, 0.25 * 2.0 ** min(attempt - 1, 60))
        wait = wait_seconds(attempt, base=0.25, longest=30.0, jitter=jitter)
        assert (1 - jitter) * backoff <= wait <= backoff


def test_what_the_server_asks_for_is_the_least_and_the_longest_bounds_it() -> None:
    waits = [wait_seconds(1, 3.0, base=1.0, longest=10.0) for _ in range(100)]
    assert min(waits) >= 3.0 and max(waits) <= 4.0 and len(set(waits)) > 50
    assert wait_seconds(1, 99.0, base=1.0, longest=10.0) == 10.0
    assert wait_seconds(1, float("inf"), base=1.0, longest=10.0) == 10.0


@pytest.mark.parametrize(
    ("header", "seconds"),
    [(None, 0), ("", 0), ("2", 2), ("1.5", 1.5), ("-1", 0), ("nan", 0), ("Wed, 21 Oct 2026", 0)],
)
def test_retry_after_is_read_in_seconds_only(header: str | None, seconds: float) -> None:
    assert retry_after(header) == seconds


def test_statuses_are_those_that_pass_by_themselves() -> None:
    assert sorted(OVERLOADED) == [429, 529]
    assert sorted(RETRYABLE) == [408, 429, 503, 520, 521, 522, 523, 524, 525, 529]
    assert sorted(RETRYABLE_UPSTREAM) == [408, 429, 500, 502, 503, 504, *range(520, 531)]
    assert RETRYABLE_UPSTREAM > RETRYABLE | GATEWAY_ERRORS and not RETRYABLE & GATEWAY_ERRORS
