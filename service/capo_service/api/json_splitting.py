"""A large body, cut into its rollouts, so that none of its parsing takes long at once.

A JSON parser holds the interpreter until it is done, in whatever thread it runs: 30 ms for 6 MB,
in which the event loop stands still. Cut up, no piece takes longer than its own rollout.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

# Strings, lists of numbers or of lists of numbers (token ids and offsets) as a whole, and other
# brackets; all else is skipped. A string without an end goes to the body's end, so that nothing is
# looked at again and again.
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
    """The pieces of `{..., "rollouts": [{...}, ...], ...}`; None for what is not plainly that.

    Pieces may still be invalid JSON. Where all of them are valid, so is the body, and they hold
    what it holds. Linear in the body's length.
    """
    depth = 0
    begin = end = -1  # of the list of rollouts, brackets left out
    inside = False
    rollouts: list[bytes] = []
    start = last = 0
    for token in _TOKEN.finditer(body):
        text = token[0]
        if text in _OPEN:
            depth += 1
            if inside and depth == 3:
                if body[last : token.start()].strip() != (b"," if rollouts else b""):
                    return None
                start = token.start()
        elif text in _CLOSE:
            depth -= 1
            if inside and depth == 2:
                last = token.end()
                rollouts.append(body[start:last])
            elif inside and depth == 1:
                inside, end = False, token.start()
                if body[last:end].strip():
                    return None
        elif depth == 1 and _KEY.fullmatch(text):
            colon = _COLON.match(body, token.end())
            if colon is None:
                continue  # the value of another key
            if body[colon.end() : colon.end() + 1] != b"[" or begin >= 0:
                return None
            begin = last = colon.end() + 1
            inside = True
        elif (inside and depth == 2) or token.start() == begin - 1:
            return None  # a string or a list among the rollouts, or in their place
    if end < 0:
        return None
    return Pieces(body[:begin] + body[end:], rollouts)
