"""Where a model's reasoning begins and ends in its output.

Known are the markers of vLLM's reasoning parsers: `<think>` and its variants, `[THINK]`, gpt-oss'
channels (also without their control tokens), Gemma's, Kimi's and Cohere's. Granite's markers are
ordinary sentences, which any judge may write, and are not supported.
"""

from __future__ import annotations

import re

_NAME = (
    r"(?:[\w.-]{1,12}[:|])?(?:longcat_)?think(?:ing)?(?:[_:]\w{1,20})?|thoughts?|reasoning|analysis"
)
_TURN = r"(?:<\|end\|>)?(?:<\|start\|>assistant)?"
_ENDS = (
    rf"<\s{{0,4}}/\s{{0,4}}(?:{_NAME})\s{{0,4}}>",
    r"\[/THINK(?:ING)?\]",
    r"◁/think▷",
    _TURN + r"<\|channel\|>\s{0,4}final[^<]{0,60}<\|message\|>",
    r"assistantfinal",
    r"<channel\|>",
    r"<\|END_THINKING\|>(?:\s?<\|START_RESPONSE\|>)?|<\|end_of_(?:thought|thinking)\|>|<\|inner_suffix\|>|<unused95>",
    r"<\|close\|>\s{0,4}think\s{0,4}<\|sep\|>",
)
_OPENINGS = (
    rf"<\s{{0,4}}(?:{_NAME})\s{{0,4}}>",
    r"\[THINK(?:ING)?\]",
    r"◁think▷",
    _TURN + r"<\|channel\|>\s{0,4}(?:analysis|commentary)[^<]{0,60}<\|message\|>",
    r"\Aanalysis(?=[A-Z])|assistant(?:analysis|commentary)",
    r"<\|channel>",
    r"<\|START_THINKING\|>|<\|begin_of_(?:thought|thinking)\|>|<\|inner_prefix\|>|<unused94>",
    r"<\|open\|>\s{0,4}think\s{0,4}<\|sep\|>",
)
# A marker in quotation marks is only mentioned: "the response contains `</think>`".
_MARKER = re.compile(
    rf"""(?=["'`“<\[◁a])(?:["'`“](?:{"|".join(_ENDS + _OPENINGS)})["'`”]"""
    rf"|(?P<end>{'|'.join(_ENDS)})|(?P<opening>{'|'.join(_OPENINGS)}))",
    re.IGNORECASE,
)


def behind(text: str) -> str | None:
    """The text after the last end marker; None if the reasoning was not ended."""
    start, open_ = 0, False
    for marker in _MARKER.finditer(text):
        if marker["end"] is not None:
            start, open_ = marker.end(), False
        elif marker["opening"] is not None:
            open_ = True
    return None if open_ else text[start:]


def without_markers(text: str) -> str:
    """The text with each marker replaced by a line end."""
    return _MARKER.sub("\n", text)
