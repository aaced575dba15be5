"""Which HTTP failures are temporary, and how long to wait before the next attempt.

One policy for the client, which calls the service, and for the service, which calls its upstream.
Each has its own loop over attempts. With tenacity the two loops were 33 lines longer, because what
is retried depends on what an attempt has achieved, and it would be one more dependency of the
client.
"""

from __future__ import annotations

import random

# The server is healthy but has no capacity: 429, and 529, another code for "overloaded".
OVERLOADED = frozenset({429, 529})
# Overloaded, not ready, or a request body that was too slow; and Cloudflare's codes for an origin
# that cannot be reached (520 to 525).
RETRYABLE = OVERLOADED | {408, 503, *range(520, 526)}
# From a proxy, or a server that restarts; from a server, they may also concern this request alone.
GATEWAY_ERRORS = frozenset({500, 502, 504})
# For a server behind third-party proxies also Cloudflare's codes for an origin with an invalid
# certificate or name (526 to 530), which occur for a while after a change of configuration.
RETRYABLE_UPSTREAM = RETRYABLE | GATEWAY_ERRORS | {*range(526, 531)}

_MOST_DOUBLINGS = 32  # beyond, a float could overflow; every `longest` is reached before


def retry_after(value: str | None) -> float:
    """Seconds in a Retry-After header; 0 if it is absent, negative or a date."""
    try:
        return max(0.0, float(value or 0))
    except ValueError:
        return 0.0


def wait_seconds(
    attempt: int,
    at_least: float = 0.0,
    *,
    base: float,
    longest: float,
    jitter: float = 1.0,
) -> float:
    """Seconds to wait after a failed attempt: exponential backoff with jitter.

    Args:
        attempt: number of the attempt that failed, counted from 1.
        at_least: seconds of the server's Retry-After. Jitter is added, so that requests that were
            refused together do not return together.
        base: seconds; upper bound of the first backoff, doubled for each further attempt.
        longest: seconds; upper bound of every wait, including `at_least`.
        jitter: random share of the backoff: at 1 it is uniform in [0, backoff], at 0.5 in
            [backoff / 2, backoff].
    """
    backoff = min(longest, base * 2.0 ** min(attempt - 1, _MOST_DOUBLINGS))
    jittered = backoff * random.uniform(1.0 - jitter, 1.0)  # noqa: S311  # not a secret
    return min(longest, at_least + jittered)
