"""Escapes control strings, for judges to which only text can be sent.

A chat server turns text such as `<|im_end|>` into control tokens, also where a rollout wrote it. In
untrusted text every string that looks like such a marker gets a zero-width space (U+200B) after its
first character: it looks the same and is no longer a marker.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

_BREAK = "\u200b"
# `<|...`, `<s>`, `</think>`, `<<SYS>>`, `<start_of_turn>`, DeepSeek's fullwidth bar, `[INST]`, and
# Kimi's `◁think▷`.
_MARKER = re.compile(
    r"<(?=[|/!<A-Za-z_\N{FULLWIDTH VERTICAL LINE}])|\[(?=/?[A-Z][A-Z_]+\])|◁(?=/?\w{1,20}▷)"
)


def escape(text: str) -> str:
    """Break every string in `text` that could be a control marker of a chat template."""
    return _MARKER.sub(lambda match: match[0] + _BREAK, text)


def template_markers(frame: str) -> list[str]:
    """The strings in a chat template's own text that look like control markers."""
    markers = re.findall(r"<\|?/?[^\s<>|]{1,40}\|?>|<<?/?[A-Z]+>>?|\[/?[A-Z][A-Z_]+\]", frame)
    return sorted(set(markers), key=len, reverse=True)


def break_markers(text: str, known: Iterable[str]) -> str:
    """Break every occurrence of the given markers in `text`, overlapping ones too."""
    for marker in known:
        if marker in text:
            ahead = f"{re.escape(marker[0])}(?={re.escape(marker[1:])})"
            text = re.sub(ahead, lambda first: first[0] + _BREAK, text)
    return text
