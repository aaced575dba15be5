"""Exact values of arithmetic expressions, and whether two are equal beyond doubt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

_MAX_DIGITS = 30
_MAX_POWER = 20
_CURRENCY = {"$": "dollar", "€": "euro", "£": "pound"}


@dataclass(slots=True)
class Token:
    """A token of the text, which it spans from `start` to `end`."""

    kind: str
    text: str
    start: int
    end: int


@dataclass(slots=True)
class Side:
    """An expression.

    Attributes:
        text: as written.
        value: with `%` as a hundredth.
        stripped: with `%` ignored.
        first: its first number.
        units: words and currencies after or before its numbers, in singular.
        operators: how many it has.
        decimals: the most decimals of a number in it.
        exact: whether every division in it gives a whole number.
    """

    text: str
    value: Fraction
    stripped: Fraction
    first: Fraction
    units: frozenset[str]
    operators: int
    decimals: int
    exact: bool = True


class DoubtError(Exception):
    """The value of the expression is in doubt."""


class Reader:
    """Recursive-descent parser of one expression; computes `value` and `stripped` of a `Side`.

    Args:
        text: in which the tokens are.
        tokens: of the whole expression, at least one.
    """

    _MAX_DEPTH = 40

    def __init__(self, text: str, tokens: Sequence[Token]) -> None:
        self._text = text
        self._tokens = tokens
        self._at = 0
        self._depth = 0
        self._units: set[str] = set()
        self._operators = 0
        self._decimals = 0
        self._exact = True
        self._first: Fraction | None = None

    def side(self) -> Side:
        """The expression.

        Raises:
            DoubtError, ZeroDivisionError, IndexError: its value is in doubt.
        """
        value, stripped = self._sum()
        if self._at < len(self._tokens):
            raise DoubtError
        shown = self._text[self._tokens[0].start : self._tokens[-1].end]
        return Side(
            text=" ".join(shown.split()),
            value=value,
            stripped=stripped,
            first=self._first or Fraction(0),
            units=frozenset(self._units),
            operators=self._operators,
            decimals=self._decimals,
            exact=self._exact,
        )

    def _peek(self, kind: str, texts: str = "") -> bool:
        if self._at >= len(self._tokens):
            return False
        token = self._tokens[self._at]
        return token.kind == kind and (not texts or token.text in texts.split())

    def _sum(self) -> tuple[Fraction, Fraction]:
        a, b = self._product()
        while self._peek("op", "+ -"):
            sign = 1 if self._take().text == "+" else -1
            c, d = self._product()
            a, b = a + sign * c, b + sign * d
            self._operators += 1
        return a, b

    def _product(self) -> tuple[Fraction, Fraction]:
        a, b = self._power()
        divided = False
        while self._peek("op", "* /") or self._peek("open"):
            if divided:
                raise DoubtError  # some mean 60 / (3/4) by 60 / 3/4
            divided = self._peek("op", "/")
            if self._peek("op"):
                self._take()
            c, d = self._power()
            if divided:
                self._exact = self._exact and (a / c).denominator == 1
            a, b = (a / c, b / d) if divided else (a * c, b * d)
            self._operators += 1
            _bounded(a)
            _bounded(b)
        return a, b

    def _power(self) -> tuple[Fraction, Fraction]:
        if self._peek("sign"):
            minus = self._take().text == "-"
            a, b = self._power()
            return (-a, -b) if minus else (a, b)
        a, b = self._atom()
        if self._peek("op", "^ **"):
            if self._tokens[self._at - 1].kind == "unit":
                raise DoubtError  # cm^3
            self._take()
            c, _ = self._power()
            if c.denominator != 1 or abs(c) > _MAX_POWER:
                raise DoubtError
            self._operators += 1
            a, b = a ** int(c), b ** int(c)
            _bounded(a)
            _bounded(b)
        return a, b

    def _atom(self) -> tuple[Fraction, Fraction]:
        if self._peek("open"):
            self._depth += 1
            if self._depth > self._MAX_DEPTH:
                raise DoubtError
            self._take()
            a, b = self._sum()
            if not self._peek("close"):
                raise DoubtError
            self._take()
            self._depth -= 1
        else:
            if self._peek("currency"):
                self._units.add(_CURRENCY[self._take().text])
            if not self._peek("number"):
                raise DoubtError
            a = b = self._literal(self._take().text)
        if self._peek("percent"):
            self._take()
            a = a / 100
        while self._peek("unit"):
            self._units.add(_stem(self._take().text))
        return a, b

    def _literal(self, text: str) -> Fraction:
        if len(text) > _MAX_DIGITS or (text[0] == "0" and text[1:2].isdigit()):
            raise DoubtError  # 0900 is a time
        value = Fraction(text.replace(",", ""))
        self._decimals = max(self._decimals, len(text.partition(".")[2]))
        if self._first is None:
            self._first = value
        return value

    def _take(self) -> Token:
        token = self._tokens[self._at]
        self._at += 1
        return token


def _bounded(value: Fraction) -> None:
    if value.numerator.bit_length() > 200 or value.denominator.bit_length() > 200:
        raise DoubtError


def compare(left: Side, right: Side) -> bool | None:
    """Whether two sides are equal; None if that is in doubt."""
    pairs = [(a, b) for a in (left.value, left.stripped) for b in (right.value, right.stripped)]
    if any(a == b for a, b in pairs):
        return True
    if any(_rounded(a, b, left, right) for a, b in pairs):
        return None
    if right.operators and right.first in (left.value, left.stripped):
        return None  # "3 * 4 = 12 + 5 = 17": the result is used further
    if len(left.units) > 1 or (left.units and right.units and left.units != right.units):
        return None  # a conversion
    return False


def _rounded(a: Fraction, b: Fraction, left: Side, right: Side) -> bool:
    """Whether one side may be the other side, rounded or truncated."""
    for value, shown, side in ((a, b, right), (b, a, left)):
        scaled = value * 10**side.decimals
        if (
            not side.operators
            and scaled.denominator != 1
            and abs(scaled - shown * 10**side.decimals) < 1
        ):
            return True
    inexact = left.decimals or right.decimals or not (left.exact and right.exact)
    return bool(inexact) and abs(a - b) * 100 <= max(abs(a), abs(b))


def _stem(word: str) -> str:
    word = _CURRENCY.get(word, word.lower())
    return word[:-1] if word.endswith("s") and len(word) > 3 else word


def as_text(value: Fraction) -> str:
    """The value as a decimal number of at most 6 significant digits."""
    if value.denominator == 1:
        return str(value.numerator)
    shown = f"{float(value):.6g}"
    return shown if Fraction(shown) == value else f"about {shown}"
