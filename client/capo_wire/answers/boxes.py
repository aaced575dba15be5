"""Finds the boxes that mark an answer, without empty, retracted and truncated ones."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

BOX = re.compile(r"(?:\\(?:boxed|fbox)|(?<![\\A-Za-z])boxed(?=\{))(?![A-Za-z])\s*")
_UNBRACED = re.compile(r"[-\w.]*\w")  # \boxed 7
# R1's format, with the same meaning as a box; the closing tag may be missing.
TAG = re.compile(r"<(answer|final_answer)>|\[ANSWER\]", re.I)
_TAG_END = re.compile(r"</(?:answer|final_answer)>|\[/ANSWER\]", re.I)
_BETWEEN_BOXES = re.compile(  # `\boxed{1}$ and $x=\boxed{2}`: two parts of one answer
    r"(?:[\s$,;.&*•{}-]|\\[\[\](),;]|\\q?quad|\\text|and\b|or\b|[和或、，；]"
    r"|\(?[a-z0-9]\)|[A-Za-z](?:_\{?\w\}?)?\s*=)*"
)
_TAKEN_BACK_BEFORE = re.compile(
    r"(?:\bnot|\bcannot be|n't(?: be)?|instead of|rather than)[\s$*:]*$", re.I
)
_TAKEN_BACK_AFTER = re.compile(
    r"[\s$*.,)\]\\]*(?:(?:which|that|this)\s+)?(?:is|was|'s)\s+"
    r"(?:not\s+(?:right|correct)|wrong|incorrect)\b",
    re.I,
)
PLACEHOLDER = re.compile(
    r"[\s.…_?]*|\\[cl]?dots"
    r"|(?:\\text\{|\[)?\s*(?:your|the|final)?[\s_]*(?:final[\s_]*)?answer(?:[\s_]*here)?\s*[}\]]?",
    re.I,
)


LONGEST_LINE = 2000  # of what follows a mark; a longer line is prose
_MOST_MARKS = 100  # at each end of a text: what has more of them is no solution


def first_and_last(matches: Iterable[re.Match[str]]) -> list[re.Match[str]]:
    found = list(matches)
    return found[:_MOST_MARKS] + found[_MOST_MARKS:][-_MOST_MARKS:]


@dataclass(frozen=True, slots=True)
class Mark:
    start: int
    end: int
    answer: str
    is_box: bool = False


def are_parts(text: str, end: int, start: int) -> bool:
    return start - end <= 60 and _BETWEEN_BOXES.fullmatch(text, end, start) is not None


def boxes(text: str) -> Iterator[Mark]:
    position = 0
    for tag in first_and_last(TAG.finditer(text)):
        tag_end = _TAG_END.search(text, tag.end())
        content = text[tag.end() : tag_end.start() if tag_end else len(text)].strip()
        if (
            len(content) <= LONGEST_LINE
            and not BOX.search(content)
            and not PLACEHOLDER.fullmatch(content)
        ):
            after = tag_end.end() if tag_end else len(text)
            yield Mark(tag.start(), after, content, is_box=True)
    closing = closing_braces(text)
    while match := BOX.search(text, position):
        position = match.end()
        if text[position : position + 1] == "{":
            closed = closing.get(position)
            inner = BOX.search(text, position)
            if closed is None or (inner and inner.start() < closed):
                continue  # cut off, or a box in a box: the inner one counts
            content, after = text[position + 1 : closed].strip(), closed + 1
        else:
            bare = _UNBRACED.match(text, position)
            if bare is None:
                continue
            content, after = bare[0], bare.end()
        position = after
        before = text[max(0, match.start() - 30) : match.start()]
        if (
            not PLACEHOLDER.fullmatch(content)
            and not _TAKEN_BACK_BEFORE.search(before)
            and not _TAKEN_BACK_AFTER.match(text, after)
        ):
            yield Mark(match.start(), after, content, is_box=True)


def cut_in_box(text: str) -> bool:
    """Whether the text ends inside a box, which then may contain only a part of the answer."""
    opening = max(text.rfind("\\boxed{"), text.rfind("\\fbox{"))
    return opening >= 0 and text.index("{", opening) not in closing_braces(text)


def without_boxes(text: str) -> str:
    """The boxes without those that are empty or retracted."""
    closing = closing_braces(text)
    kept, position = [], 0
    while match := BOX.search(text, position):
        kept.append(text[position : match.start()])
        position = closing.get(match.end(), match.end() - 1) + 1
    return "".join([*kept, text[position:]])


BRACE = re.compile(r"(?<!\\)[{}]")


def closing_braces(text: str) -> dict[int, int]:
    """The position of the closing brace for each opening brace."""
    closing, opened = {}, []
    for brace in BRACE.finditer(text):
        if brace[0] == "{":
            opened.append(brace.start())
        elif opened:
            closing[opened.pop()] = brace.start()
    return closing
