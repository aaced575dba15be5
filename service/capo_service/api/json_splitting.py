"""Cuts a large body into its rollouts, so that no single parse holds the interpreter for long.

A JSON parser holds the interpreter until it is done, in whatever thread it runs: 55 ms for 6 MB of
token ids and offsets, 370 ms for 35 MB, in which the event loop stands still. Cut up, no piece
takes longer than its own rollout: 2 to 8 ms for 1,024 rollouts in 35 MB.

Not done by a library: `msgspec.Raw` takes 15 to 25% less time in all, but one call holds the
interpreter for 7 ms (6 MB) or 40 ms (35 MB), and it refuses a lone surrogate or NaN anywhere, after
which the whole body has to be parsed at once (470 ms). ijson replaces lone surrogates by question
marks without an error and refuses integers over 64 bits.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

# Strings, lists of numbers or of lists of numbers (token ids and offsets) as a whole, and other
# brackets; all else is skipped. An unterminated string extends to the end of the body, so that no
# character is scanned twice.
_TOKEN = re.compile(
    rb'"(?:[^"\\]++|\\.)*+(?:"|\Z)'
    rb'|\[(?:[^][{}"]++|\[[^][{}"]*+\])*+\]'
    rb"|[][{}]",
    re.DOTALL,
)
# "rollouts", each letter as it is or as an escape, which JSON takes for the same key.
_KEY = re.compile(
    b'"%b"' % b"".join(rb"(?:%c|\\u00(?i:%02x))" % (letter, letter) for letter in b"rollouts")
)
_COLON = re.compile(rb"\s*:\s*")
_OPEN, _CLOSE = b"{[", b"}]"


@dataclass(frozen=True, slots=True)
class Pieces:
    """The body with an empty list of rollouts, and the rollouts, all as JSON."""

    envelope: bytes
    rollouts: list[bytes]


def split(body: bytes) -> Pieces | None:
    """The pieces of `{..., "rollouts": [{...}, ...], ...}`; None for any other body.

    Pieces may still be invalid JSON. Where all of them are valid, so is the body, and they hold
    what it holds. Linear in the body's length.
    """
    pieces: Pieces | None = None
    depth = 0
    tokens = _TOKEN.finditer(body)
    for token in tokens:
        text = token[0]
        depth += (text in _OPEN) - (text in _CLOSE)
        is_key = depth == 1 and _KEY.fullmatch(text)
        if is_key and (colon := _COLON.match(body, token.end())):
            if pieces is not None:
                return None  # the key is repeated: the last one counts
            pieces = _split_list(body, colon.end(), tokens)
            if pieces is None:
                return None
    return pieces


def _split_list(body: bytes, begin: int, tokens: Iterator[re.Match[bytes]]) -> Pieces | None:
    """The pieces if a list of objects or lists begins at `begin`; consumes its tokens."""
    opening = next(tokens, None)
    if opening is None or opening[0] != b"[" or opening.start() != begin:
        return None
    rollouts: list[bytes] = []
    depth = 0
    start = last = opening.end()
    for token in tokens:
        text = token[0]
        opens, closes = text in _OPEN, text in _CLOSE
        if depth == 0:
            between = body[last : token.start()].strip()
            if closes and not between:
                return Pieces(body[: begin + 1] + body[token.start() :], rollouts)
            if not opens or between != (b"," if rollouts else b""):
                return None
            start = token.start()
        depth += opens - closes
        if depth == 0:
            last = token.end()
            rollouts.append(body[start:last])
    return None
