"""Where a final answer stands in a text: the same rules for the service, the trainer and adapters.

The rules, with examples that are run as tests, are in docs/outcome.md. Whether two answers are the
same is `capo_client.equivalence`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from capo_client.values import MATH_SPAN, clean, is_sentence, is_short_text, is_value, last_value

# Special tokens that frameworks leave at the end of a decoded response.
END_TOKENS = (
    "<|im_end|>",
    "<|endoftext|>",
    "<|eot_id|>",
    "<|end_of_text|>",
    "<|return|>",
    "<｜end▁of▁sentence｜>",
    "<end_of_turn>",
    "</s>",
    "<eos>",
)


class UnfinishedThoughtError(ValueError):
    """The response ends inside its thought, so it gives no answer."""


def response_of(query: str, prompt: str, end_tokens: Sequence[str] = END_TOKENS) -> str:
    """What the policy wrote, of a query that is prompt and response, decoded together.

    Raises:
        ValueError: the query does not begin with the prompt.
    """
    if not query.startswith(prompt):
        raise ValueError(
            "a query does not begin with its prompt, so where its response begins is not known: "
            "are prompts cut to fit the policy's context?"
        )
    return _without_end_tokens(query[len(prompt) :], end_tokens)


def final_answer(response: str) -> str | None:
    """The final answer of a response, as it is written there; None if there is none.

    In this order: the last marked answer (`\\boxed{}`, `#### 42`, `Answer: 42`), what a sentence
    calls the answer ("the answer is 42"), the last value in the text. Thoughts are not searched.

    Raises:
        UnfinishedThoughtError: the response ends inside a thought.
    """
    text = _without_thoughts(_without_end_tokens(response))
    marked = _marked(text)
    if marked is not None or _cut_in_box(text):
        return marked
    stated = _stated(text)
    return stated if stated is not None else last_value(text)


def reference_answer(reference: str) -> str | None:
    """The answer of a reference, which is a bare answer or a solution that marks its answer.

    None if the reference holds no answer: prose, or a word such as `proof` that stands for none.
    """
    text = reference.strip()
    answer = _marked(text)
    if answer is None and is_value(bare := clean(text)):
        answer = bare
    if answer is None:
        answer = _stated(text)
    if answer is None and is_short_text(bare) and not is_sentence(text):
        answer = bare
    if answer is None or _STANDS_FOR_NONE.fullmatch(answer) or _PLACEHOLDER.fullmatch(answer):
        return None
    if "\\boxed" in answer or answer.count("{") != answer.count("}"):
        return None
    return answer


# A word in place of an answer, as data sets of proofs have it.
_STANDS_FOR_NONE = re.compile(
    r"\W*|(?:the )?proofs?|not found|n/?a|nan|null|(?:please )?see .*|omitted|unknown"
    r"|no (?:final )?answer.*",
    re.I,
)


# ---------------------------------------------------------------------------------- thoughts

# An end, by the markers of the model families; the opening tag may stand in the prompt.
_THOUGHT_END = re.compile(
    r"</(?:think|thinking|thought|seed:think|reasoning|analysis)>|\[/THINK\]|◁/think▷"
    r"|<\|channel\|>final<\|message\|>|\bassistantfinal(?=[A-Z\W\d])"
)
_THOUGHT_BEGIN = re.compile(
    r"<(?:think|thinking|thought|seed:think|reasoning|analysis)>|\[THINK\]|◁think▷"
    r"|<\|channel\|>analysis<\|message\|>"
)


def _without_thoughts(text: str) -> str:
    ends = [match.end() for match in _THOUGHT_END.finditer(text)]
    text = text[ends[-1] :] if ends else text
    if _THOUGHT_BEGIN.search(text):
        raise UnfinishedThoughtError("the response ends inside its thought")
    return text


def _without_end_tokens(text: str, end_tokens: Sequence[str] = END_TOKENS) -> str:
    text = text.rstrip()
    while ended := next((end for end in end_tokens if end and text.endswith(end)), None):
        text = text[: -len(ended)].rstrip()
    return text


# ------------------------------------------------------------------------------------- marks

_BOX = re.compile(r"\\(?:boxed|fbox)(?![A-Za-z])\s*")
_UNBRACED = re.compile(r"[-\w.]*\w")  # \boxed 7
_BETWEEN_BOXES = re.compile(  # `\boxed{1}$ and $x=\boxed{2}`: two parts of one answer
    r"[\s$,;.&*•\-]*(?:\\[\[\](),;]|\\quad|\\text)*[\s$,;{}]*(?:and|or)?[\s$,;{}]*"
    r"(?:\\[\[\](),;]|\\quad)*[\s$*•\-]*(?:\(?[a-z0-9]\)|[A-Za-z](?:_\{?\w\}?)?\s*=)?[\s$]*"
)
_TAKEN_BACK_BEFORE = re.compile(r"\b(?:not|instead of|rather than)[\s$*:]*$", re.I)
_TAKEN_BACK_AFTER = re.compile(
    r"[\s$*.,)\]\\]*(?:(?:which|that|this)\s+)?(?:is|was|'s)\s+(?:not\s+(?:right|correct)|wrong|incorrect)\b",
    re.I,
)
_PLACEHOLDER = re.compile(
    r"[\s.…_?]*|\\[cl]?dots|(?:\\text\{)?\s*(?:your|the|final)?[\s_]*(?:final[\s_]*)?answer(?:[\s_]*here)?\s*\}?",
    re.I,
)

_HASHES = re.compile(r"####[ \t]*")
_ANSWER_LINE = re.compile(
    r"^[ \t>*_#\-•]*(?:the[ \t]+)?(?:final[ \t]+|correct[ \t]+)?(?:answer|ans|答案)[ \t*_]*"
    r"(?:[:：][ \t*_]*|[*_]+[ \t]*$|[ \t]*$(?<=answer))|^[ \t]*A:[ \t]*",
    re.M | re.I,
)


# Base models go on with another question, whose answer is not this one's.
_NEXT_QUESTION = re.compile(
    r"^[#*\s]*(?:(?:Question|Problem|Q|User|Human)(?:\s*\d+)?\s*:|<\|im_start\|>user)", re.M
)


@dataclass(frozen=True, slots=True)
class _Mark:
    start: int
    end: int
    answer: str
    is_box: bool = False


def _marked(text: str) -> str | None:
    """What the last mark holds; boxes that only `and`, a comma or `x =` part are one answer."""
    marks = sorted([*_boxes(text), *_line_marks(text)], key=lambda mark: mark.start)
    if not marks:
        return None
    following = _NEXT_QUESTION.search(text, marks[0].end)
    if following:
        marks = [mark for mark in marks if mark.start < following.start()]
    if not marks[-1].is_box:
        return marks[-1].answer
    parts = [marks.pop()]
    while marks and marks[-1].is_box and _are_parts(text, marks[-1].end, parts[0].start):
        parts.insert(0, marks.pop())
    return ", ".join(dict.fromkeys(part.answer for part in parts))


def _are_parts(text: str, end: int, start: int) -> bool:
    return start - end <= 60 and _BETWEEN_BOXES.fullmatch(text, end, start) is not None


def _boxes(text: str) -> Iterator[_Mark]:
    position = 0
    while match := _BOX.search(text, position):
        position = match.end()
        if text[position : position + 1] == "{":
            end = _closing_brace(text, position)
            if end is None:  # cut off
                return
            content, after = text[position + 1 : end].strip(), end + 1
            if _BOX.search(content):  # a box in a box: the inner one
                continue
        else:
            bare = _UNBRACED.match(text, position)
            if bare is None:
                continue
            content, after = bare[0], bare.end()
        position = after
        before = text[max(0, match.start() - 30) : match.start()]
        if (
            not _PLACEHOLDER.fullmatch(content)
            and not _TAKEN_BACK_BEFORE.search(before)
            and not _TAKEN_BACK_AFTER.match(text, after)
        ):
            yield _Mark(match.start(), after, content, is_box=True)


def _cut_in_box(text: str) -> bool:
    """Whether the text ends before a box is closed, which then may hold a part of the answer."""
    opening = max(text.rfind("\\boxed{"), text.rfind("\\fbox{"))
    return opening >= 0 and _closing_brace(text, text.index("{", opening)) is None


_BRACE = re.compile(r"(?<!\\)[{}]")


def _closing_brace(text: str, opening: int) -> int | None:
    depth = 0
    for brace in _BRACE.finditer(text, opening):
        depth += 1 if brace[0] == "{" else -1
        if depth == 0:
            return brace.start()
    return None


def _line_marks(text: str) -> Iterator[_Mark]:
    for pattern in (_HASHES, _ANSWER_LINE):
        for match in _first_and_last(pattern.finditer(text)):
            line, rest = _line(text, match.end())
            if not line.strip(" \t*_:"):
                if pattern is _HASHES:  # a heading of nothing
                    continue
                line, rest = _line(text, rest, skip_blank=True)
            answer = _value_in(line, ends_text=not _SOMETHING.search(text, rest))
            if answer is not None:
                yield _Mark(match.start(), match.end(), answer)


_SOMETHING = re.compile(r"\S")
_MOST_MARKS = 100  # at each end of a text: what has more of them is no solution


def _first_and_last(matches: Iterable[re.Match[str]]) -> list[re.Match[str]]:
    found = list(matches)
    return found[:_MOST_MARKS] + found[_MOST_MARKS:][-_MOST_MARKS:]


def _line(text: str, begin: int, skip_blank: bool = False) -> tuple[str, int]:
    """The rest of the line, and where the next one begins."""
    if skip_blank:
        something = _SOMETHING.search(text, begin)
        begin = something.start() if something else len(text)
    end = text.find("\n", begin)
    end = len(text) if end < 0 else end
    return text[begin : min(end, begin + _LONGEST_LINE)], end


_LONGEST_LINE = 2000  # of what follows a mark; a longer line is prose


# --------------------------------------------------------------------------------- sentences

_STATED = re.compile(
    r"\b(?:answer|(?:correct|right|best)\s+(?:option|choice))(?:\s+to\s+(?:the|this|your)\s+(?:question|problem))?\s*(?:is|are|was|=|equals|:|：)"
    r"(?:\s*(?:therefore|thus|then|indeed|simply|option|choice)\b)?[\s:：*_]*"
    r"|答案[是为：:]+\s*|故选[:：]?\s*|\b(?:choose|select|pick)\s+(?:option|choice)?\s*(?=\(?[A-J]\b)"
    r"|\b(?:option|choice)\s+(?=\(?[A-J]\)?[\s.,]*$)",
    re.I | re.M,
)


def _stated(text: str) -> str | None:
    for match in reversed(_first_and_last(_STATED.finditer(text))):
        line, rest = _line(text, match.end())
        if not line.strip():
            line, rest = _line(text, rest, skip_blank=True)
        answer = _value_in(line, ends_text=not _SOMETHING.search(text, rest))
        if answer is not None:
            return answer
    return None


_SENTENCE_END = re.compile(
    r"(?<!\b[ap]\.m)(?<!\b[AP]\.M)[.!?。;；](?=\s|$|\*)|\s+(?:because|since|as|which|so|when|for)\s|,\s+(?=[a-z]{3,})|[，(]\s*(?=[a-z]{3,}\s)"
)


def _value_in(line: str, ends_text: bool) -> str | None:
    """The answer at the beginning of what follows a mark; None where none does (a heading)."""
    if "\\boxed" in line or "\\fbox" in line:
        return None  # the box is the mark
    inner = list(_STATED.finditer(line))
    if inner:
        return _value_in(line[inner[-1].end() :], ends_text)
    end = _SENTENCE_END.search(line)
    first = clean(line[: end.start()] if end else line)
    if is_value(first):
        return first
    span = MATH_SPAN.match(line.lstrip(" *_"))
    if span:
        return clean(span[0])
    alone = ends_text and (end is None or not line[end.end() :].strip(" *_"))
    return first if alone and is_short_text(first) else None
