"""Whether a verdict in free text is the judge's own, or a quotation."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import islice

# The clause before the verdict says that it is a quotation, or describes the format.
_QUOTING = re.compile(
    r"\b(?:writes?|wrote|written|says?|said|saying|claims?|claimed|quotes?|quoted|contains?|"
    r"containing|includes?|imitat\w+|forge[sd]?|pretends?|inserts?|inserted|ends (?:in|with))\b"
    r"|\bformat\W{1,9}(?:\w+\W{1,9}){0,4}(?:is|was|were)\b|写道|声称|格式[是为]|\A\s*>",
    re.IGNORECASE,
)
# Clauses end here too: "step 1 contains an error, so the wrong step is" is a conclusion.
_CLAUSE_END = re.compile(
    r"[.!?。！？\n]|[,;]\s*(?:so|thus|hence|therefore|but|which|making)\b",  # noqa: RUF001
    re.IGNORECASE,
)
_OPENING_MARK = re.compile(r"(?:(?<![^\s(\[:,])[\"']|[“‘«「])\Z")  # noqa: RUF001
_CLAUSE = 300  # characters before a verdict that are searched for these
_QUOTED = 12  # characters before a verdict, without blanks, that are searched for in the rollout
_OCCURRENCES = 20  # of a word in the rollout that are looked at one by one


def follows_mark(answer: str, start: int) -> bool:
    """Whether a quotation mark stands before a verdict."""
    return answer[max(start - 1, 0) : start] in tuple("\"'“‘«「")  # noqa: RUF001


def follows_opening_mark(answer: str, start: int) -> bool:
    """Whether it is one that opens a quotation.

    An engine that enforces a verdict may begin it behind one that closes a quotation, where the
    budget of the analysis is used up.
    """
    return _OPENING_MARK.search(answer[max(start - 2, 0) : start]) is not None


def is_copied(answer: str, start: int, end: int, rollout: str, word: str) -> bool:
    """Whether `answer[start:end]`, with the characters before it, stands in the rollout too.

    Args:
        answer: the critique.
        start: where its verdict begins.
        end: where its verdict ends.
        rollout: the judged text.
        word: a word that is in every verdict; only text near it is compared.
    """
    context = answer[max(0, start - _CLAUSE) : start]
    before, own = "".join(context.split())[-_QUOTED:], "".join(answer[start:end].split())
    if not before:
        return False
    return any(before + own in text for text in _near(rollout, word, 2 * (end - start) + _CLAUSE))


def _near(rollout: str, word: str, width: int) -> Iterator[str]:
    """The text around each occurrence of a word, without blanks; all of it where there are many."""
    found = list(islice(re.finditer(word, rollout, re.IGNORECASE), _OCCURRENCES + 1))
    if len(found) > _OCCURRENCES:
        yield "".join(rollout.split())
        return
    for each in found:
        yield "".join(rollout[max(0, each.start() - width) : each.end() + width].split())


def is_quotation(answer: str, start: int, end: int, rollout: str) -> bool:
    """Whether a list of wrong steps is copied, or its clause says that it is a quotation."""
    if follows_mark(answer, start) or is_copied(answer, start, end, rollout, "incorrect"):
        return True
    context = answer[max(0, start - _CLAUSE) : start]
    before = re.sub(r"```\w{0,10}\s*\Z", "", context).rstrip(" \t\n*`_")
    if "\n" in context[len(before) :] and not before.endswith((":", "：")):  # noqa: RUF001
        return False
    return _QUOTING.search(_CLAUSE_END.split(before)[-1]) is not None
