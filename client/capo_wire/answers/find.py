"""Finding the final answer of a text.

The rules, with examples that are run as tests, are in docs/outcome.md. Whether two answers are
equal is in `capo_wire.answers.compare`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from capo_wire.answers.boxes import (
    BOX,
    BRACE,
    LONGEST_LINE,
    PLACEHOLDER,
    TAG,
    Mark,
    are_parts,
    boxes,
    cut_in_box,
    first_and_last,
    without_boxes,
)
from capo_wire.answers.values import (
    clean,
    is_sentence,
    is_short_text,
    is_value,
    last_value,
    math_spans,
)
from capo_wire.special_text import END_TOKENS, after_thoughts, content_end


class UnfinishedThoughtError(ValueError):
    """The response ends inside a thought, so it has no answer."""


def response_of(query: str, prompt: str, end_tokens: Sequence[str] = END_TOKENS) -> str:
    """The response in a query that holds prompt and response, without end-of-turn tokens.

    Raises:
        ValueError: the query does not begin with the prompt.
    """
    if not query.startswith(prompt):
        raise ValueError(
            "a query does not begin with its prompt, so the start of its response is unknown: "
            "are prompts truncated to fit the policy's context?"
        )
    text = query[len(prompt) :]
    return text[: content_end(text, end_tokens)]


def final_answer(response: str, of_words: bool = False) -> str | None:
    """The final answer of a response, as it is written there; None if it has no answer.

    In this order: the last marked answer (`\\boxed{}`, `#### 42`, `Answer: 42`), the text if it is
    a value as a whole, what a sentence calls the answer ("the answer is 42"), the last value in the
    text. Thoughts are not searched.

    Args:
        response: The policy's text.
        of_words: Whether the expected answer is text. Then a marked or stated answer is returned
            as a whole, and no number is extracted from it.

    Raises:
        UnfinishedThoughtError: the response ends inside a thought.
    """
    text = _without_thoughts(response.translate(_INVISIBLE)).strip()
    text = _until_next_question(text)
    marked = _marked(text, of_words)
    if marked is not None or cut_in_box(text):
        return marked
    text = without_boxes(text)
    whole = clean(_PREFIX.sub("", text))
    if is_value(whole) and _WHOLE.search(whole) and ("\n" not in whole or "\\begin" in whole):
        return whole
    stated = _stated(text, of_words)
    return stated if stated is not None else last_value(text)


def last_option(response: str) -> str | None:
    """The last multiple-choice letter in a response without a marked answer."""
    text = _without_thoughts(response)
    letters = _LETTER.findall(text)
    return letters[-1] if letters else None


_PREFIX = re.compile(r"\A#{1,6}\s+|\A∴\s*|\A>\s*|\AAns\.?\s*[:.]?\s+", re.I)
_WHOLE = re.compile(r"[\d\\=]|^\(?[A-J]\)?(?:[.):]|$)")  # and not `I do`
# Not the words `A` and `I`.
_LETTER = re.compile(r"(?<![A-Za-z'’])(?:(?<=\()[A-J](?=\))|[B-HJ]|A(?!\s+[a-z]))(?![A-Za-z'’])")
_INVISIBLE = dict.fromkeys(map(ord, "\u200b\u2060\ufeff✅✔✓☑🎉"))


def reference_answer(reference: str) -> str | None:
    """The answer of a reference, which is a bare answer or a solution that marks its answer.

    None if the reference contains no answer: prose, or a placeholder such as `proof`.
    """
    text = reference.strip()
    bare = clean(text)
    answer = _marked(text, of_words=True)
    if answer is None and is_value(bare):
        answer = bare
    if answer is None:
        answer = _stated(text, of_words=True)
    if answer is None and is_short_text(bare) and not is_sentence(text):
        answer = bare
    if answer is None or _STANDS_FOR_NONE.fullmatch(answer) or PLACEHOLDER.fullmatch(answer):
        return None
    braces = [brace[0] for brace in BRACE.finditer(answer)]
    if "\\boxed" in answer or braces.count("{") != braces.count("}"):
        return None
    return answer


# Placeholders for an answer in data sets of proofs.
_STANDS_FOR_NONE = re.compile(
    r"\W*|(?:the )?proofs?|not found|n/?a|nan|null|(?:please )?see .*|omitted|unknown"
    r"|no (?:final )?answer.*",
    re.I,
)


def _without_thoughts(response: str) -> str:
    text = after_thoughts(_END.sub("\n", response))
    if text is None:
        raise UnfinishedThoughtError("the response ends inside its thought")
    return text


_END = re.compile("|".join(map(re.escape, END_TOKENS)))


# ------------------------------------------------------------------------------------- marks

_HASHES = re.compile(r"####[ \t]*")
_HEADING = re.compile(r"\d{1,2}[.)]\s+[A-Za-z].*[^.\s]\s*")  # `#### 1. Multiply`
_ANSWER_LINE = re.compile(
    r"(?:^[ \t>*_#•-]*(?:\\textbf\{|<b>|<strong>)?(?:the[ \t]+)?(?:(?:final|correct)[ \t]+)?"
    r"(?:answer|ans|答案?|答え)|(?<=[.!?。][ \t])final answer(?=:))[ \t*_]*"
    r"(?:[:：][ \t*_]*(?:\}|</b>|</strong>)?[ \t*_:：]*|[*_]+[ \t]*$|[ \t]*$(?<=answer)"
    r"|\}[ \t]*[:：]?|[ \t]+(?=\(?[A-J]\)?[.\s*]*$))|^[ \t]*A:[ \t]*",
    re.M | re.I,
)


# Base models may go on with another question and answer.
_NEXT_QUESTION = re.compile(
    r"^[#* \t]*(?:(?:Question|Problem|Q|User|Human|Instruction|Input)(?:\s*\d+)?\s*:)"
    r"|<\|im_start\|>user|<\|start_header_id\|>user",
    re.M,
)


def _until_next_question(text: str) -> str:
    """The text before another question, if it contains an answer."""
    answered = min(
        (match.end() for pattern in _ANSWERS if (match := pattern.search(text))), default=len(text)
    )
    following = _NEXT_QUESTION.search(text, answered)
    return text[: following.start()] if following else text


def _marked(text: str, of_words: bool) -> str | None:
    """The last marked answer; boxes separated only by `and`, a comma or `x =` are one answer."""
    marks = sorted([*boxes(text), *_line_marks(text, of_words)], key=lambda mark: mark.start)
    if not marks:
        return None
    if not marks[-1].is_box:
        return marks[-1].answer
    parts = [marks.pop()]
    while marks and marks[-1].is_box and are_parts(text, marks[-1].end, parts[0].start):
        parts.insert(0, marks.pop())
    return ", ".join(dict.fromkeys(part.answer for part in parts))


def _line_marks(text: str, of_words: bool) -> Iterator[Mark]:
    for pattern in (_HASHES, _ANSWER_LINE):
        for match in first_and_last(pattern.finditer(text)):
            line, rest = _line(text, match.end())
            if not line.strip(" \t*_:"):
                if pattern is _HASHES:  # a heading of nothing
                    continue
                line, rest = _line(text, rest, skip_blank=True)
            ends_text = not _SOMETHING.search(text, rest)
            if pattern is _HASHES and not ends_text and _HEADING.fullmatch(line):
                continue
            answer = _value_in(line, ends_text, of_words)
            if answer is None and ends_text and "\\boxed" not in line:
                answer = last_value(line)  # Answer: Sam has 21 apples.
            if answer is not None:
                yield Mark(match.start(), match.end(), answer)


_SOMETHING = re.compile(r"\S")


def _line(text: str, begin: int, skip_blank: bool = False) -> tuple[str, int]:
    """The rest of the line, and the start of the next line."""
    if skip_blank:
        something = _SOMETHING.search(text, begin)
        begin = something.start() if something else len(text)
    end = text.find("\n", begin)
    end = len(text) if end < 0 else end
    return text[begin : min(end, begin + LONGEST_LINE)], end


# --------------------------------------------------------------------------------- sentences

_STATED = re.compile(
    r"\b(?:answer|(?:correct|right|best)\s+(?:option|choice))"
    r"(?:\s+to\s+(?:the|this|your)\s+(?:question|problem))?\s*(?:is|are|was|=|equals|:|：)"
    r"(?:\s*(?:therefore|thus|then|indeed|simply|exactly|just|clearly|option|choice)\b)?[\s:：*_]*"
    r"|答案[是为：:]+\s*|故选[:：]?\s*"
    r"|\b(?:choose|select|pick)\s+(?:option|choice)?\s*(?=\(?[A-J]\b)"
    r"|\b(?:option|choice)\s+(?=\(?[A-J]\)?[\s.,]*$)",
    re.I | re.M,
)
# The other way round: `21 is the final answer`, `(D) is correct`.
_STATED_BEFORE = re.compile(
    r"(?:(\$[^$\n]{1,80}\$)|(?<!\S)(\S{1,80}))\s+is\s+(?:the|our)\s+(?:final\s+)?(?:(?:correct|right)\s+)?(?:answer|option|choice)\b"
    r"|\(?([A-J])\)?\s+is\s+(?:the\s+)?(?:correct|right)\b"
)


def _stated(text: str, of_words: bool) -> str | None:
    for match in reversed(first_and_last(_STATED.finditer(text))):
        line, rest = _line(text, match.end())
        if not line.strip():
            line, rest = _line(text, rest, skip_blank=True)
        ends_text = not _SOMETHING.search(text, rest)
        answer = _value_in(line.rstrip("! "), ends_text, of_words)
        if answer is None and re.search(
            r"(?:is|are|was)\W*$", match[0]
        ):  # the answer is that there are 5 apples
            answer = last_value(_SENTENCE.split(line, maxsplit=1)[0])
        if answer is not None:
            return answer
    for match in reversed(first_and_last(_STATED_BEFORE.finditer(text))):
        answer = clean(match[1] or match[2] or match[3])
        if is_value(answer):
            return answer
    return None


_SENTENCE = re.compile(r"(?<!\d)[.!?。](?=\s|$)|(?<=\d)[.。](?=\s+[A-Z]|$)")
_SENTENCE_END = re.compile(
    r"(?<!\b[ap]\.m)(?<!\b[AP]\.M)(?:(?<!\d)[.?]|(?<=\d)\.(?!\d)|[。？]|(?<=[A-Za-z]{2})!)(?=\s|$|\*)"
    r"|\s+[—–-]\s+(?=[a-z]{2,})|(?<!\{)\s+(?:because|since|as|which|so|when|for)\s"
    r"|[,;]\s+(?!and\b|or\b)(?=[a-z.]{3,})|[，；(]\s*(?=[a-z]{3,}\s)|(?<![_^]\d)(?<=\d)\s+\((?=[^)]*(?:[-+*/=]|by))"
)


def _value_in(line: str, ends_text: bool, of_words: bool) -> str | None:
    """The answer after a mark; None if there is none (a heading)."""
    if "\\boxed" in line or "\\fbox" in line:
        return None  # the box is the mark
    inner = list(_STATED.finditer(line))
    if inner:
        return _value_in(line[inner[-1].end() :], ends_text, of_words)
    end = _SENTENCE_END.search(line)
    first = clean(line[: end.start()] if end else line)
    if is_value(first):
        return first
    stripped = line.lstrip(" *_")
    spans = math_spans(stripped)
    if spans and spans[0][0] == 0:
        return clean(stripped[: spans[0][1]])
    if not of_words and _DIGIT.search(first):
        return None  # 21 is in `Sam has 21 apples`
    alone = ends_text and (end is None or not line[end.end() :].strip(" *_"))
    return first if alone and is_short_text(first) else None


_DIGIT = re.compile(r"\d")
_ANSWERS = (BOX, TAG, _HASHES, _ANSWER_LINE, _STATED)
