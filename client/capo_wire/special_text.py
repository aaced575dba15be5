"""Thoughts, tool calls and end-of-turn tokens in the output of a judge or a policy.

The markers of thoughts are those of the families that vLLM's reasoning parsers know: `<think>` and
its variants, `[THINK]`, gpt-oss' channels (also without their control tokens), Gemma's, Kimi's and
Cohere's. Granite's are left out: they are sentences that any model may write.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

# Special tokens that end a turn, as tokenizers and frameworks leave them in decoded text.
END_TOKENS = (
    "<|im_end|>",
    "<|endoftext|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|eot|>",
    "<|eom|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<|user|>",
    "<|observation|>",
    "<|role_end|>",
    "<|end_of_text|>",
    "<|end_of_turn|>",
    "<|end_of_role|>",
    "<|end_of_turn_token|>",
    "<|end_response|>",
    "<｜end▁of▁sentence｜>",
    "<end_of_turn>",
    "<turn|>",
    "</s>",
    "<eos>",
    "<pad>",
    "[EOS]",
)


def content_end(text: str, end_tokens: Sequence[str] = END_TOKENS) -> int:
    """Length of a text without the end-of-turn tokens and blanks at its end, in linear time."""
    found = _trailing(tuple(end_tokens)).match(text[::-1])
    return len(text) - (found.end() if found else 0)


_BLANK = r"\s"
_BLANKS = re.compile(r"\s*")


@lru_cache(maxsize=16)
def _trailing(end_tokens: tuple[str, ...]) -> re.Pattern[str]:
    """Matches end-of-turn tokens and blanks at the start of a reversed text."""
    tokens = [re.escape(token[::-1]) for token in end_tokens if token]
    return re.compile(rf"(?:{'|'.join([_BLANK, *tokens])})*+", re.IGNORECASE)


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
# A marker between quotation marks is quoted text: "the response holds `</think>`".
_MARKER = re.compile(
    rf"""(?=["'`“<\[◁a])(?:["'`“](?:{"|".join(_ENDS + _OPENINGS)})["'`”]"""
    rf"|(?P<end>{'|'.join(_ENDS)})|(?P<opening>{'|'.join(_OPENINGS)}))",
    re.IGNORECASE,
)


def after_thoughts(text: str) -> str | None:
    """The text after the last thought; None if the text ends inside a thought.

    The opening marker may be missing, since chat templates often put it into the prompt.
    """
    start, is_open = 0, False
    for marker in _MARKER.finditer(text):
        if marker["end"] is not None:
            start, is_open = marker.end(), False
        elif marker["opening"] is not None:
            is_open = True
    return None if is_open else text[start:]


def thought_boundaries(text: str) -> list[int]:
    """Where thoughts begin and end inside a text, in ascending order.

    A thought ends behind the white space that follows its closing marker.
    """
    found = []
    for marker in _MARKER.finditer(text):
        if marker["end"] is not None:
            blanks = _BLANKS.match(text, marker.end())
            found.append(blanks.end() if blanks else marker.end())
        elif marker["opening"] is not None:
            found.append(marker.start())
    first = len(text) - len(text.lstrip())
    return sorted({position for position in found if first < position < len(text)})


# Each marker contains one of these words; looking for them first takes a tenth of the time.
_MARKER_WORDS = (
    "think",
    "thought",
    "reasoning",
    "analysis",
    "commentary",
    "final",
    "channel",
    "inner_",
    "unused9",
)


def without_thought_markers(text: str) -> str:
    """The text with each marker of a thought replaced by a line end."""
    if text.isascii():  # beyond ASCII, `lower` and re.IGNORECASE differ
        lower = text.lower()
        if not any(word in lower for word in _MARKER_WORDS):
            return text
    return _MARKER.sub("\n", text)


_RECIPIENT = r"\s?to=[\w.-]{1,80}"
_CONSTRAINED = r"[^<]{0,60}(?:<\|constrain\|>[^<]{0,20})?<\|message\|>"
# The tokens of the families that vLLM's tool parsers know. Those around the results of tools, such
# as `<|tool_response|>`, are not among them: a policy does not write those.
_CALL_TOKENS = re.compile(
    r"<\|/?tool_calls?(?:_[a-z]{1,20}){0,2}\|>"  # Kimi, LFM2, Phi, Granite
    r"|<｜tool[▁_](?:calls?[▁_](?:begin|end)|sep)｜>|</?｜DSML｜[^<>]{1,200}>"  # DeepSeek, Step
    r"|<\|python_(?:tag|start|end)\|>"  # Llama
    r"|<\|action_(?:start|end)\|>|<\|plugin\|>"  # InternLM
    r"|<\|(?:START|END)_ACTION\|>|<\|tools_(?:prefix|suffix)\|>"  # Cohere, Apertus
    # gpt-oss, which names the tool before its channel or behind it
    rf"|(?:(?:<\|end\|>)?<\|start\|>assistant)?{_RECIPIENT}\s?<\|channel\|>{_CONSTRAINED}"
    rf"|{_TURN}<\|channel\|>\s?(?:analysis|commentary){_RECIPIENT}{_CONSTRAINED}"
)


def without_call_tokens(text: str) -> str:
    """The text with each token of a policy's own tool calls replaced by a line end."""
    return _CALL_TOKENS.sub("\n", text) if "<|" in text or "｜" in text else text
