"""Critiques in free text, and the tolerant parser for them (CAPO, section 3.2 and appendix).

A critique ends in `<incorrect_steps> 3, 5 </incorrect_steps>`, or is JSON with the same list. The
parser accepts both, in the dialects that judges write.
"""

from __future__ import annotations

import json
import re
from collections import deque
from dataclasses import dataclass
from typing import Any, ClassVar

from capo_service.core.number_list import read_list, read_values
from capo_service.core.verdicts.base import ConstraintForm, Verdict
from capo_service.core.verdicts.quotation import is_quotation
from capo_wire.special_text import after_thoughts

_KEY = "incorrect_steps"
_OPEN = re.compile(r"<\s{0,4}incorrect\\{0,2}[_ ]steps\s{0,4}(/?)\s{0,4}>", re.IGNORECASE)
_CLOSE = re.compile(r"<\s{0,4}\\?/\s{0,4}incorrect\\{0,2}[_ ]steps\s{0,4}>?", re.IGNORECASE)
_FENCE = re.compile(r"\s*(?:```\w{0,10}\s*)?(?=\{)")
_OBJECT = re.compile(r"\{\s*\"(?:[^\"\\\n]|\\.){0,60}\"\s*:")
_ESCAPE = re.compile(r"\\(?:[\"\\/bfnrt]|u[0-9a-fA-F]{4})|\\")
_DECODER = json.JSONDecoder(strict=False)

# Allowed after a verdict: punctuation, closing tags, end tokens, and one word on a new line.
_ENDING = re.compile(
    r"(?:[\s`*_.!\"'”。]|</\w{1,20}>|<\|[\w/]{1,30}\|>|<｜[^<>]{1,30}｜>|<eos>|<end_of_turn>)*"  # noqa: RUF001
)
_WORD = re.compile(r"(?!s(?:t(?:e(?:p|ps)?)?)?\b)[a-z]{1,30}[.!]?", re.IGNORECASE)
_NOT_LAST = "text follows its list of wrong steps, which must come last"


_EXPECTED_TOKENS = 512


@dataclass(frozen=True, slots=True)
class FreeText:
    """A critique without a fixed form, of at most `limit` tokens."""

    n_steps: int
    limit: int
    name: ClassVar[str] = "tag"
    opening: ClassVar[str] = ""
    is_constrained: ClassVar[bool] = False

    def opened(self) -> FreeText:
        """Free text has no fixed start."""
        return self

    def structure(self) -> list[dict[str, Any]]:
        """Any text; for what follows a thought."""
        return [{"type": "any_text", "max_tokens": self.limit}]

    def grammar(self) -> None:
        """Not available for this form."""
        return

    def json_schema(self) -> None:
        """Not available for this form."""
        return

    def max_tokens(self, form: ConstraintForm) -> int:
        """The limit, whatever constrains the text."""
        return self.limit

    def expected_tokens(self) -> int:
        """A rough estimate."""
        return min(_EXPECTED_TOKENS, self.limit)

    def read(self, text: str, *, truncated: bool = False, rollout: str = "") -> Verdict:
        """As `read`."""
        return read(text, self.n_steps, truncated=truncated, rollout=rollout)


def read(text: str, n_steps: int, *, truncated: bool = False, rollout: str = "") -> Verdict:
    """Parse a critique of a rollout with `n_steps` steps.

    Only the text after the judge's reasoning is parsed, and only a complete list at its end is a
    verdict: a list elsewhere, inside other JSON or in a quotation may be a draft, a description of
    the format, or text of the rollout.

    Args:
        text: the critique.
        n_steps: the steps are 0 to `n_steps` - 1.
        truncated: the text was cut off by the token limit, so a list that is not closed may lack
            steps or digits.
        rollout: the judged text; a verdict that repeats it is a quotation.
    """
    try:
        return Verdict(read_with_object(text, n_steps, truncated, rollout)[0])
    except ValueError as error:
        return Verdict(None, str(error))


def read_with_object(
    text: str, n_steps: int, truncated: bool, rollout: str
) -> tuple[frozenset[int], dict[str, Any] | None]:
    """The wrong steps, and the JSON object that names them; None if no object does.

    Raises:
        ValueError: the critique cannot be parsed.
    """
    # LaTeX in a JSON string is often written with single backslashes.
    text = _ESCAPE.sub(lambda found: found[0] if len(found[0]) > 1 else "\\\\", text)
    # A critique that is one JSON object is a verdict, whatever its strings contain.
    if fence := _FENCE.match(text):
        value, end = _decode(text, fence.end())
        if value is not None and _ends(text, end):
            return _of_object(value, n_steps), value
    answer = after_thoughts(text)
    if answer is None:
        raise ValueError("its reasoning was not ended, so it has no verdict")
    value, start, end = _last_object(answer)
    tag = _last(_OPEN, answer, end)
    if tag is not None:
        body, start, end = _tagged(answer, tag, truncated)
    elif value is None:
        raise ValueError("it has no list of wrong steps")
    if not _ends(answer, end):
        raise ValueError(_NOT_LAST)
    if is_quotation(answer, start, end, rollout):
        raise ValueError("its list of wrong steps is a quotation")
    if tag is not None:
        return read_list(body, n_steps), None
    return _of_object(value or {}, n_steps), value


def _last(pattern: re.Pattern[str], text: str, start: int) -> re.Match[str] | None:
    found = deque(pattern.finditer(text, start), maxlen=1)
    return found[0] if found else None


def _tagged(answer: str, tag: re.Match[str], truncated: bool) -> tuple[str, int, int]:
    """The text between the tags, and where the verdict begins and ends."""
    if tag[1]:
        return "", tag.start(), tag.end()
    if (close := _CLOSE.search(answer, tag.end())) is not None:
        return answer[tag.end() : close.start()], tag.start(), close.end()
    body, end = answer[tag.end() :], len(answer)
    if not body.strip():
        raise ValueError("its list of wrong steps is not closed and is empty")
    if truncated:
        # The list may continue on the next line, unless a word follows there.
        blank = len(body) - len(body.lstrip())
        line, _, rest = body[blank:].partition("\n")
        if not _WORD.match(rest.strip()) or line.rstrip().endswith(tuple(",;，、；")):  # noqa: RUF001
            raise ValueError("the list of wrong steps was cut off")
        body, end = line, tag.end() + blank + len(line)
    return body, tag.start(), end


def _last_object(answer: str) -> tuple[dict[str, Any] | None, int, int]:
    """The last JSON object, and its start and end; (None, 0, 0) if there is none.

    Raises:
        ValueError: one is incomplete, so that later text may be part of one of its strings.
    """
    value, start, end = None, 0, 0
    while (found := _OBJECT.search(answer, end)) is not None:
        value, after = _decode(answer, found.start())
        if value is None:
            raise ValueError("it has JSON that is cut off or not valid")
        start, end = found.start(), after
    return value, start, end


def _decode(text: str, start: int) -> tuple[dict[str, Any] | None, int]:
    try:
        value, end = _DECODER.raw_decode(text, start)
    except (ValueError, RecursionError):
        return None, start
    return (value if isinstance(value, dict) else None), end


def _of_object(value: dict[str, Any], n_steps: int) -> frozenset[int]:
    steps = value.get(_KEY)
    if isinstance(steps, list):
        return read_values(steps, n_steps)
    if isinstance(steps, str) and steps.strip():
        return read_list(steps, n_steps)
    raise ValueError("it has no list of wrong steps")


def _ends(text: str, end: int) -> bool:
    """Whether nothing but allowed endings follows."""
    ending = _ENDING.match(text, end)
    rest = ending.end() if ending else end
    return rest == len(text) or ("\n" in text[end:rest] and bool(_WORD.fullmatch(text, rest)))
