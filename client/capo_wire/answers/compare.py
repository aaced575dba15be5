"""Whether a response's final answer is the reference's: r_v of CAPO, section 3.1.

Answers are compared by their structure first (options, times, numbers, words, lists, tuples,
intervals), so that no part of one is dropped; what remains is left to math-verify, which comes with
the service and the trainer. The rules, with examples that are run as tests, are in docs/outcome.md.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

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
from capo_wire.answers.quantities import DECIMAL_TOLERANCE, number, same_number

_RATIO = re.compile(r"\d\s*:\s*\d")
_LONGEST = 2000  # characters of an answer that is compared as mathematics

Reason = Literal["no_answer", "unfinished_thought", "unreadable_answer", "comparison_failed"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether the answer is right, and, where it could not be checked, why."""

    right: bool
    reason: Reason | None = None
    detail: str | None = None


class UnreadableReferenceError(ValueError):
    """A reference that holds no answer."""


def verify(response: str, reference: str, seconds: int | None = None) -> Verdict:
    """Compare the final answer of `response` with that of `reference`.

    Args:
        response: The policy's text.
        reference: An answer, or a solution that marks its answer.
        seconds: Limit, by a signal, so in the main thread only; None where the caller limits the
            time.

    Raises:
        UnreadableReferenceError: the reference holds no answer.
        ImportError: math-verify is not installed, and the answers need it.
        TimeoutException: math-verify's, a BaseException: `seconds` have passed.
    """
    expected = reference_answer(reference)
    if expected is None:
        raise UnreadableReferenceError("the reference holds no answer that can be read")
    wanted = normal(expected)
    if len(response) <= _LONGEST and as_text(normal(response)) == as_text(wanted):
        return Verdict(True)  # nothing but the answer, whatever it is written with
    try:
        answer = final_answer(response, of_words=has_words(wanted))
        if answer is None and options(wanted):
            answer = last_option(response)
    except UnfinishedThoughtError as error:
        return Verdict(False, "unfinished_thought", str(error))
    if answer is None:
        return Verdict(False, "no_answer", "no final answer was found in the response")
    comparison = _Comparison()
    right = _limited(seconds)(comparison.same)(normal(answer), wanted)
    if right or comparison.problem is None:
        return Verdict(right)
    reason, detail = comparison.problem
    return Verdict(False, reason, detail)


def equivalent(answer: str, reference: str, seconds: int | None = None) -> bool:
    """Whether two answers are the same, whole. Not symmetric: `x = 5` is right where 5 is asked.

    Raises:
        As `verify`.
    """
    return bool(_limited(seconds)(_Comparison().same)(normal(answer), normal(reference)))


def _limited(seconds: int | None) -> Any:
    """A decorator that limits the time of a call."""
    from math_verify.utils import timeout

    return timeout(timeout_seconds=seconds)


class _Comparison:
    """One comparison, and what went wrong in it; a list has several."""

    def __init__(self) -> None:
        self.problem: tuple[Reason, str] | None = None

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
            self.problem = ("unreadable_answer", limit)
            return False
        answer, reference = same_sides(answer, reference)
        left, right = number(answer), number(reference)
        if left is not None and right is not None:
            return same_number(left, right)
        if _based(answer) or _based(reference):  # math-verify drops the base
            return _based(answer) == _based(reference)
        words = has_words(answer) or has_words(reference)
        if words and as_words(answer).replace(" ", "") == as_words(reference).replace(" ", ""):
            return True
        if "\\dots" in answer + reference:  # what it stands for is not known
            return as_text(answer) == as_text(reference)
        ours, theirs = _Parts.of(answer), _Parts.of(reference)
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
        """3:2 is 6:4, and no number."""
        if len(answer) != len(reference):
            return False
        if all(map(self.same, answer, reference)):
            return True
        ours = [found.value for part in answer if (found := number(part))]
        theirs = [found.value for part in reference if (found := number(part))]
        if len(ours) != len(answer) or len(theirs) != len(reference):
            return False
        return all(a * theirs[0] == b * ours[0] for a, b in zip(ours, theirs, strict=True))

    def _same_parts(self, answer: _Parts, reference: _Parts) -> bool:
        kinds = {answer.kind, reference.kind}
        if kinds <= {"list", "set", "union"}:
            return self._matched(_unlike(answer.items), _unlike(reference.items))
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
        """Whether each answer is another one of the references."""
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
        """By math-verify, which must read both as a whole."""
        if answer != reference and _NAME.fullmatch(answer) and _NAME.fullmatch(reference):
            return False  # math-verify takes \Gamma for \gamma
        import math_verify

        try:
            gold, found = _parse(reference), _parse(answer)
            if gold is None or found is None:
                unread = "reference" if gold is None else "answer"
                self.problem = (
                    "unreadable_answer",
                    f"the {unread} cannot be read as mathematics, and the texts are not the same",
                )
                return False
            same = math_verify.verify(
                gold,
                found,
                timeout_seconds=None,
                raise_on_error=True,
                allow_set_relation_comp=True,
            )
            if same:
                return _near(gold, found, decimal="." in answer + reference)
            return _same_complex(gold, found)
        except (MemoryError, RecursionError):
            raise
        except Exception as error:  # sympy lets out whatever its parsers and simplifiers raise
            self.problem = ("comparison_failed", f"the comparison failed: {error!r:.200}")
            return False


# ------------------------------------------------------------------------------------- parts

_OPENING, _CLOSING = "([{", ")]}"
_SEPARATOR = re.compile(
    r",|;|\\text\{\s*,?\s*(?:and|or)\s*,?\s*\}|(?<![A-Za-z])(?:and|or)(?![A-Za-z])"
)
_COMMA = re.compile(r"[,;]")
_UNION = re.compile(r"\\cup(?![A-Za-z])")
_PLUS_MINUS = re.compile(r"\\pm(?![A-Za-z])")
_THOUSANDS = re.compile(r"[-+]?\d{1,3}(?:,\d{3})+(?:\.\d+)?")


@dataclass(frozen=True, slots=True)
class _Parts:
    """What an answer is made of.

    `kind`: `list`, `set` (in braces) or `union` (of intervals), all without an order; the two
    brackets of a tuple or interval (`()`, `[)`, ...); empty for what is one.
    """

    kind: str
    items: tuple[str, ...]

    @classmethod
    def of(cls, text: str) -> _Parts:
        text = text.strip()
        if _closes_at_end(text) and len(both := _both_signs((text,))) > 1:
            return cls("list", both)  # (\pm 1, 0)
        items = _split(text, _SEPARATOR)
        if len(items) > 1:
            return cls("list", _both_signs(items))
        if text.startswith("\\{") and text.endswith("\\}"):
            return cls("set", _both_signs(_split(text[2:-2], _SEPARATOR)))
        if len(union := _split(text, _UNION)) > 1:
            return cls("union", union)
        if text[:1] in ("(", "[") and text[-1:] in (")", "]") and _closes_at_end(text):
            items = _split(text[1:-1], _COMMA)
            if len(items) > 1:
                return cls(text[0] + text[-1], items)
        items = _both_signs((text,))
        return cls("list" if len(items) > 1 else "", items)


def _split(text: str, separator: re.Pattern[str]) -> tuple[str, ...]:
    """At separators that stand in no bracket, nor in a number."""
    if _THOUSANDS.fullmatch(text.strip()):
        return (text.strip(),)
    items, depth, begin, position = [], 0, 0, 0
    while position < len(text):
        match = separator.match(text, position) if depth == 0 else None
        if match:
            items.append(text[begin:position])
            begin = position = match.end()
            continue
        depth = max(0, depth + (text[position] in _OPENING) - (text[position] in _CLOSING))
        position += 1
    items.append(text[begin:])
    return tuple(item.strip() for item in items if item.strip())


def _unlike(items: Sequence[str]) -> list[str]:
    """Without repetitions: {1, 1, 2} is {1, 2}."""
    return list({as_text(item): item for item in items}.values())


def _closes_at_end(text: str) -> bool:
    """Whether it is all in one pair of brackets."""
    depth = 0
    for position, character in enumerate(text):
        depth += (character in _OPENING) - (character in _CLOSING)
        if depth == 0:
            return position == len(text) - 1
    return False


def _both_signs(items: Sequence[str]) -> tuple[str, ...]:
    """`1 \\pm \\sqrt{2}` is two values."""
    both: list[str] = []
    for item in items:
        if len(_PLUS_MINUS.findall(item)) == 1:
            both += [_PLUS_MINUS.sub(sign, item).strip() for sign in "+-"]
        else:
            both.append(item)
    return tuple(both)


# ------------------------------------------------------------------------------- math-verify

_NAME = re.compile(r"\\[A-Za-z]+")
_BASE = re.compile(r"(-?[0-9A-Z]*[0-9])_\{?\(?(?:\\text\{)?(\w+)\}*\)?\}*")
_BASES = ["two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]


def _based(text: str) -> tuple[str, str] | None:
    """Digits and base of `4210_5` or `4210_{\\text{five}}`."""
    match = _BASE.fullmatch(text)
    if match is None:
        return None
    digits, base = match.groups()
    return digits, str(_BASES.index(base) + 2) if base in _BASES else base


@lru_cache(maxsize=512)
def _parse(text: str) -> Any:
    """The expression; None if math-verify does not read it as LaTeX."""
    import math_verify
    from latex2sympy2_extended import NormalizationConfig

    latex = math_verify.LatexExtractionConfig(
        # Units are dropped before; math-verify's own list takes the t of 4t for one.
        normalization_config=NormalizationConfig(
            basic_latex=True, malformed_operators=True, nits=True, boxed="all"
        )
    )
    found = math_verify.parse(
        f"\\boxed{{{text}}}",
        extraction_config=[latex],
        fallback_mode="no_fallback",
        parsing_timeout=None,
        raise_on_error=True,
    )
    return found[0] if found and _is_whole(text, found[0]) else None


def _is_whole(text: str, parsed: Any) -> bool:
    """Whether all variables of a text are in what was parsed: of gcd(a, b), b is not."""
    bare = re.sub(r"\\(?:begin|end)\{\w+\}|\\[A-Za-z]+|\b(?:or|and|in)\b", " ", text)
    letters = set(re.findall(r"[A-Za-z](?=_)|[A-CF-HJ-Za-cf-hj-z]", bare.replace("\\", " ")))
    found = " ".join(map(str, parsed.atoms())) + " ".join(re.findall(r"\b[A-Za-z]\(", str(parsed)))
    return {letter.lower() for letter in letters} <= set(found.lower())


def _same_complex(gold: Any, found: Any) -> bool:
    """Whether two numbers in which math-verify takes i for a variable are equal."""
    from sympy import I

    try:
        symbols = gold.free_symbols | found.free_symbols
        if {str(symbol) for symbol in symbols} != {"i"}:
            return False
        difference = (gold - found).subs({symbol: I for symbol in symbols}).doit().evalf(30)
        return bool(abs(difference) < 1e-20)
    except (AttributeError, TypeError, ValueError):
        return False


def _near(gold: Any, found: Any, decimal: bool) -> bool:
    """Relatively; math-verify's difference is absolute, so small numbers are all equal to it."""
    try:
        if gold == found or gold.free_symbols or found.free_symbols:
            return True
        difference = (gold - found).doit()
        if not decimal and difference.is_Rational:
            return bool(difference == 0)
        theirs, ours = (value.doit().evalf(30) for value in (gold, found))
        if not (theirs.is_number and ours.is_number):
            return True
    except (AttributeError, TypeError, ValueError):
        return True  # no numbers
    tolerance = float(DECIMAL_TOLERANCE) if decimal else 1e-9
    # In sympy's floats, which have no smallest number.
    return bool(abs(ours - theirs) <= tolerance * (abs(ours) + abs(theirs)))
