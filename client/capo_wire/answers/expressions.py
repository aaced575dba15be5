"""Compares mathematical expressions by math-verify, and checks that it parsed them completely.

math-verify comes with the service and the trainer. It is imported at the first comparison.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any, Literal

from capo_wire.answers.quantities import DECIMAL_TOLERANCE

UncheckedReason = Literal[
    "no_answer", "unfinished_thought", "unreadable_answer", "comparison_failed"
]


class UncheckedError(ValueError):
    """Two answers that could not be compared."""

    def __init__(self, reason: UncheckedReason, detail: str) -> None:
        super().__init__(detail)
        self.reason: UncheckedReason = reason
        self.detail = detail


def same_expression(answer: str, reference: str) -> bool:
    """Whether two expressions in LaTeX are equal.

    Raises:
        UncheckedError: one cannot be parsed completely, or the comparison failed.
    """
    if answer != reference and _NAME.fullmatch(answer) and _NAME.fullmatch(reference):
        return False  # math-verify reads \Gamma as \gamma
    import math_verify

    try:
        gold, found = _parse(reference), _parse(answer)
        if gold is None or found is None:
            unread = "reference" if gold is None else "answer"
            raise UncheckedError(
                "unreadable_answer",
                f"the {unread} cannot be parsed as mathematics, and the texts differ",
            )
        if math_verify.verify(
            gold, found, timeout_seconds=None, raise_on_error=True, allow_set_relation_comp=True
        ):
            return _near(gold, found, decimal="." in answer + reference)
        return _same_complex(gold, found)
    except (MemoryError, RecursionError, UncheckedError):
        raise
    except Exception as error:  # sympy raises whatever its parsers and simplifiers raise
        raise UncheckedError(
            "comparison_failed", f"the comparison failed: {error!r:.200}"
        ) from error


_NAME = re.compile(r"\\[A-Za-z]+")
_BASE = re.compile(r"(-?[0-9A-Z]*[0-9])_\{?\(?(?:\\text\{)?(\w+)\}*\)?\}*")
_BASES = ["two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]


def digits_and_base(text: str) -> tuple[str, str] | None:
    """Digits and base of `4210_5` or `4210_{\\text{five}}`; None for any other text."""
    match = _BASE.fullmatch(text)
    if match is None:
        return None
    digits, base = match.groups()
    return digits, str(_BASES.index(base) + 2) if base in _BASES else base


@lru_cache(maxsize=512)
def _parse(text: str) -> Any:
    """The expression; None if math-verify cannot parse it as LaTeX."""
    import math_verify
    from latex2sympy2_extended import NormalizationConfig

    latex = math_verify.LatexExtractionConfig(
        # Units were removed before; math-verify would read the t of 4t as a unit.
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
    """Whether the parsed expression has all variables of the text (for gcd(a, b), b is lost)."""
    bare = re.sub(r"\\(?:begin|end)\{\w+\}|\\[A-Za-z]+|\b(?:or|and|in)\b", " ", text)
    letters = set(re.findall(r"[A-Za-z](?=_)|[A-CF-HJ-Za-cf-hj-z]", bare.replace("\\", " ")))
    found = " ".join(map(str, parsed.atoms())) + " ".join(re.findall(r"\b[A-Za-z]\(", str(parsed)))
    return {letter.lower() for letter in letters} <= set(found.lower())


def _same_complex(gold: Any, found: Any) -> bool:
    """Whether two numbers are equal in which math-verify reads i as a variable."""
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
    """Relative comparison; math-verify's is absolute, so that all small numbers are equal."""
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
