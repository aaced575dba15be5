"""Whether a response's final answer is the reference's: r_v of CAPO, section 3.1.

Answers are compared by their structure first (options, times, numbers, words, lists, tuples,
intervals), so that no part of one is dropped; single expressions are left to math-verify. The
rules, with examples that are run as tests, are in docs/outcome.md.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from capo_wire.answers.expressions import (
    UncheckedError,
    UncheckedReason,
    digits_and_base,
    same_expression,
)
from capo_wire.answers.find import (
    UnfinishedThoughtError,
    final_answer,
    last_option,
    reference_answer,
)
from capo_wire.answers.notation import (
    as_latex,
    as_text,
    as_words,
    has_words,
    is_relation,
    normal,
    options,
    same_clock,
    same_sides,
)
from capo_wire.answers.parts import Parts, distinct
from capo_wire.answers.quantities import number, same_number

_RATIO = re.compile(r"\d\s*:\s*\d")
_LONGEST = 2000  # characters of an answer that is compared as mathematics


@dataclass(frozen=True, slots=True)
class Comparison:
    """Whether the answer is right and, if it could not be checked, the reason."""

    right: bool
    reason: UncheckedReason | None = None
    detail: str | None = None


class UnreadableReferenceError(ValueError):
    """The reference contains no answer."""


def verify(response: str, reference: str, seconds: int | None = None) -> Comparison:
    """Compare the final answer of `response` with that of `reference`.

    Args:
        response: The policy's text.
        reference: An answer, or a solution that marks its answer.
        seconds: Time limit, by a signal, so in the main thread only; None: no limit.

    Raises:
        UnreadableReferenceError: the reference contains no answer.
        ImportError: math-verify is not installed, and the answers need it.
        TimeoutException: the time limit was exceeded (a BaseException of math-verify).
    """
    expected = reference_answer(reference)
    if expected is None:
        raise UnreadableReferenceError("the reference contains no answer that can be parsed")
    wanted = normal(expected)
    if len(response) <= _LONGEST and as_text(normal(response)) == as_text(wanted):
        return Comparison(True)  # nothing but the answer, in any notation
    try:
        answer = final_answer(response, of_words=has_words(wanted))
        if answer is None and options(wanted):
            answer = last_option(response)
    except UnfinishedThoughtError as error:
        return Comparison(False, "unfinished_thought", str(error))
    if answer is None:
        return Comparison(False, "no_answer", "no final answer was found in the response")
    comparer = _Comparer()
    right = _limited(seconds)(comparer.same)(normal(answer), wanted)
    if right or comparer.problem is None:
        return Comparison(right)
    return Comparison(False, comparer.problem.reason, comparer.problem.detail)


def equivalent(answer: str, reference: str, seconds: int | None = None) -> bool:
    """Whether two answers are equal as a whole. Not symmetric: `x = 5` matches the reference 5.

    Raises:
        As `verify`.
    """
    return bool(_limited(seconds)(_Comparer().same)(normal(answer), normal(reference)))


def _limited(seconds: int | None) -> Any:
    """A decorator that limits the time of a call."""
    from math_verify.utils import timeout

    return timeout(timeout_seconds=seconds)


class _Comparer:
    """Compares two answers by their structure; `problem`: why a part could not be checked."""

    def __init__(self) -> None:
        self.problem: UncheckedError | None = None

    def same(self, answer: str, reference: str) -> bool:
        if as_text(answer) == as_text(reference):
            return True
        if options(reference):
            return options(answer) == options(reference)
        if (alike := same_clock(answer, reference)) is not None:
            return alike
        if _RATIO.search(answer) or _RATIO.search(reference):
            return self._same_ratio(answer.split(":"), reference.split(":"))
        if max(len(answer), len(reference)) > _LONGEST:
            limit = f"answers of over {_LONGEST} characters are compared as text only"
            self.problem = UncheckedError("unreadable_answer", limit)
            return False
        answer, reference = same_sides(answer, reference)
        left, right = number(answer), number(reference)
        if left is not None and right is not None:
            return same_number(left, right)
        if digits_and_base(answer) or digits_and_base(reference):  # math-verify drops the base
            return digits_and_base(answer) == digits_and_base(reference)
        words = has_words(answer) or has_words(reference)
        if words and as_words(answer).replace(" ", "") == as_words(reference).replace(" ", ""):
            return True
        if "\\dots" in answer + reference:  # what it stands for is not known
            return as_text(answer) == as_text(reference)
        ours, theirs = Parts.of(answer), Parts.of(reference)
        if ours.kind or theirs.kind:
            return self._same_parts(ours, theirs) or (
                is_relation(answer) != is_relation(reference)
                and not words
                and self._same_expression(answer, reference)
            )
        if words:  # which mathematics would read as products
            return False
        return as_text(answer) == as_text(reference) or self._same_expression(
            as_latex(answer), as_latex(reference)
        )

    def _same_ratio(self, answer: list[str], reference: list[str]) -> bool:
        """A ratio: 3:2 equals 6:4, and is not a number."""
        if len(answer) != len(reference):
            return False
        if all(map(self.same, answer, reference)):
            return True
        ours = [found.value for part in answer if (found := number(part))]
        theirs = [found.value for part in reference if (found := number(part))]
        if len(ours) != len(answer) or len(theirs) != len(reference):
            return False
        return all(a * theirs[0] == b * ours[0] for a, b in zip(ours, theirs, strict=True))

    def _same_parts(self, answer: Parts, reference: Parts) -> bool:
        kinds = {answer.kind, reference.kind}
        if kinds <= {"list", "set", "union"}:
            return self._matched(distinct(answer.items), distinct(reference.items))
        if len(answer.items) != len(reference.items):
            return False
        if kinds & {"", "set", "union"}:
            return False
        # `0, 1` is (0, 1), and `1, 2, 3` is [1, 2, 3]; but [2, 5) is not [2, 5].
        alike = {"list", "()"} if len(answer.items) == 2 else {"list", "()", "[]"}
        if len(kinds) > 1 and not kinds <= alike:
            return False
        return all(map(self.same, answer.items, reference.items))

    def _matched(self, answers: Sequence[str], references: Sequence[str]) -> bool:
        """Whether answers and references are equal in some order."""
        if len(answers) != len(references):
            return False
        left = list(references)
        for answer in answers:
            found = next((i for i, item in enumerate(left) if self.same(answer, item)), None)
            if found is None:
                return False
            left.pop(found)
        return True

    def _same_expression(self, answer: str, reference: str) -> bool:
        try:
            return same_expression(answer, reference)
        except UncheckedError as error:
            self.problem = error
            return False
