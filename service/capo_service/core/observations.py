"""Observations: what tools and environments wrote in a trajectory, as the judge sees it.

They are evidence for the judge and no steps. A long one is shown by its beginning and its end, and
the prompt says how much is left out.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_BYTES_PER_TOKEN = 3  # fewer than in prose and more than in numbers: most observations are mixed
_HEAD = 2 / 3  # of the budget; the end of a long output often has its result or error


@dataclass(frozen=True, slots=True)
class ShownStep:
    """A step as the judge sees it: its text, and the observation after it (None: there is none)."""

    text: str
    observation: str | None = None


def shortened(text: str, tokens: int) -> tuple[str, int]:
    """An observation within a budget, and how many of its characters are left out.

    Args:
        text: the observation.
        tokens: the budget, in tokens of three bytes.
    """
    budget = tokens * _BYTES_PER_TOKEN
    if len(text) <= budget // 4:  # no character has more bytes in UTF-8
        return text, 0
    raw = text.encode("utf-8", "surrogatepass")
    if len(raw) <= budget:
        return text, 0
    head = _whole(raw[: int(budget * _HEAD)])
    tail = _whole(raw[len(raw) - (budget - int(budget * _HEAD)) :])
    left_out = len(text) - len(head) - len(tail)
    return f"{head}\n[... {left_out:,} characters left out ...]\n{tail}", left_out


def _whole(raw: bytes) -> str:
    """The text of a piece of UTF-8 without the parts of characters at its ends."""
    start, end = 0, len(raw)
    while start < end and raw[start] & 0xC0 == 0x80:
        start += 1
    for back in range(1, min(4, end - start) + 1):
        byte = raw[end - back]
        if byte & 0xC0 != 0x80:
            size = 1 if byte < 0x80 else 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
            end -= back if size > back else 0
            break
    return raw[start:end].decode("utf-8", "surrogatepass")


# What precedes a tool call in the text of the families that vLLM's tool parsers know.
_CALL = re.compile(
    r"<\|?tool_calls?(?:_(?:section_)?(?:begin|start))?\|?>|<\|tools_prefix\|>|\[TOOL_CALLS\]"
    r"|<\uff5ctool[\u2581_]calls?[\u2581_]begin\uff5c>|<\uff5cDSML\uff5cfunction_calls>"
    r"|<(?:longcat|seed|minimax)[:_]tool_call>|<function[=>]|<(?:start_)?function_calls?>"
    r"|<\|python_(?:tag|start)\|>|<\|action_start\|>|<\|START_ACTION\|>|<action>|\bAction:"
    r"|\bto=(?=[\w.-]{1,80}[^<\n]{0,20}<\|)",  # gpt-oss
    re.IGNORECASE,
)


def calls_of(text: str) -> str:
    """What a turn calls: its text from the first tool call on; empty if there is none."""
    found = _CALL.search(text)
    return text[found.end() :].strip() if found else ""
