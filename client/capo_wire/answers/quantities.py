"""Exact values of numbers in answers, and the units after them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

FUNCTION = re.compile(
    r"\b(?:sqrt|sin|cos|tan|cot|sec|csc|arc(?:sin|cos|tan)|sinh|cosh|tanh|log|ln|exp|pi|theta|"
    r"infinity|inf|and|or|mod|gcd|lcm|max|min|abs|det|frac)\b",
    re.I,
)


@dataclass(frozen=True, slots=True)
class Number:
    """An exact number; 7% is 7 with `percent`. `places`: number of decimals as written."""

    value: Fraction
    percent: bool
    places: int = 0


_SCALES = {"thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_SCALE = re.compile(r"\s*(?:\\text\{\s*)?(thousand|million|billion|trillion)s?\s*\}?$", re.I)
_REPEATING = re.compile(r"([-+]?)(\d*)\.(\d*)\\(?:overline|bar|dot)\{(\d+)\}")
_DIGITS = r"\d{1,3}(?:(?:,| )\d{3})+(?:\.\d+)?|\d+(?:\.\d*)?|\.\d+"
_DECIMAL = re.compile(
    rf"([-+]?)\s*({_DIGITS})(?:\s*(?:\\times|\\cdot|\*|x)\s*10\s*\^\s*\{{?\s*([-+]?\d{{1,3}})\s*\}}?"
    r"|[eE]([-+]?\d{1,3}))?"
)
_POWER = re.compile(r"([-+]?)\s*10\s*\^\s*(?:\{\s*([-+]?\d{1,3})\s*\}|(\d{1,3}))")
_SLASH = re.compile(r"([-+]?)\s*\(?\s*([-+]?[\d.,]+)\s*\)?\s*/\s*\(?\s*([\d.,]+)\s*\)?")
_FRAC = re.compile(
    r"([-+]?)\s*\\frac\s*(?:\{\s*([-+]?[\d., ]+)\s*\}|(\d))\s*(?:\{\s*([-+]?[\d., ]+)\s*\}|(\d))"
)
_MIXED = re.compile(
    r"([-+]?)\s*(\d+(?: \d{3})*)\s*(?:\\text\{\s*and\s*\}|and)?\s*(\\frac.+|(?<=\s)\d+\s*/\s*\d+)"
)
CURRENCY = re.compile(r"^([-+]?)\s*(?:(?:USD|EUR|GBP|Rs\.?)\s)\s*")
_MOST_DIGITS = 400  # of a number that is compared as one
# A decimal stands for what it agrees with to six significant digits: 0.333333 is 1/3, 0.33 is not.
DECIMAL_TOLERANCE = Fraction(1, 1_000_000)
_MANY_PLACES = 6  # decimals of numbers that were cut, not measured
_FLOAT_TOLERANCE = Fraction(1, 10**12)  # 0.30000000000000004 is 0.3


def number(text: str) -> Number | None:
    """Parse a number: integer, decimal, fraction, mixed number, power of ten, percentage."""
    text = CURRENCY.sub(r"\1", without_unit(text)).strip()
    percent = text.endswith("\\%")
    if percent:
        text = text[:-2].strip()
    scale = _SCALE.search(text)
    if scale:
        text = text[: scale.start()]
    if len(text) > _MOST_DIGITS:
        return None
    value = _value(text)
    if value is None:
        return None
    value *= _SCALES[scale[1].lower()] if scale else 1
    decimals = re.search(r"\.(\d+)$", text)
    return Number(value, percent, len(decimals[1]) if decimals else 0)


def _value(text: str) -> Fraction | None:
    if match := _DECIMAL.fullmatch(text):
        sign, digits, power, exponent = match.groups()
        value = Fraction(re.sub(r"[, ]", "", digits).rstrip(".") or "0")
        return _signed(sign, value * Fraction(10) ** int(power or exponent or 0))
    if match := _REPEATING.fullmatch(text):
        sign, whole, digits, cycle = match.groups()
        repeated = Fraction(int(cycle), 10 ** len(digits) * (10 ** len(cycle) - 1))
        return _signed(sign, Fraction(f"{whole or 0}.{digits or 0}") + repeated)
    if match := _POWER.fullmatch(text):
        return _signed(match[1], Fraction(10) ** int(match[2] or match[3]))
    if match := _SLASH.fullmatch(text) or _FRAC.fullmatch(text):
        sign, *parts = match.groups()
        numbers = [_value(part.strip()) for part in parts if part is not None]
        if len(numbers) == 2 and numbers[0] is not None and numbers[1]:
            return _signed(sign, numbers[0] / numbers[1])
        return None
    if match := _MIXED.fullmatch(text):
        part = _value(match[3].strip())
        if part is not None and 0 <= part < 1:
            return _signed(match[1], int(match[2].replace(" ", "")) + part)
    return None


def _signed(sign: str, value: Fraction) -> Fraction:
    return -value if sign == "-" else value


def same_number(left: Number, right: Number) -> bool:
    """Whether two numbers are equal.

    7% equals both 7 and 0.07. A decimal equals a fraction without a finite decimal expansion if
    they agree to six significant digits.
    """
    places = min(left.places, right.places)
    if left.percent == right.percent:
        return _close(left.value, right.value, places)
    share, plain = (left, right) if left.percent else (right, left)
    return _close(share.value, plain.value, places) or _close(share.value / 100, plain.value, 0)


def _close(a: Fraction, b: Fraction, places: int) -> bool:
    if a.denominator == b.denominator == 1:
        return a == b
    difference, greatest = abs(a - b), max(abs(a), abs(b))
    cut_off = places >= _MANY_PLACES and difference <= Fraction(1, 10**places)  # 2.6666667
    endless = _is_decimal(a) != _is_decimal(b)
    tolerance = DECIMAL_TOLERANCE if endless or cut_off else _FLOAT_TOLERANCE
    return difference <= tolerance * greatest


def _is_decimal(value: Fraction) -> bool:
    """Whether its decimal expansion is finite."""
    rest = value.denominator
    for prime in (2, 5):
        while rest % prime == 0:
            rest //= prime
    return rest == 1


_SHORT_UNITS = (
    "[ckm]m|kg|mg|ft|in|mi|yd|lbs?|oz|hrs?|min|sec|m[lL]|mph|kph|deg|rad|mol|gal|cup|day|men|box"
    "|USD|EUR|GBP"
)
# `\text{ cm}` and `\text{m}`, but not the variable of `3\text{x}`.
_TEXT_UNIT = (
    r"(?:\\mu\s*)?(?:\\text\{(?:\s*[msghLNJWVKCFl]\s*"
    r"|(?!\s*(?:and|or|if|for|where|to)\b|[A-Z]{2,3}\})[^{}\\]{2,})\}|\\Omega|\\AA|Å)"
)
_UNIT = re.compile(
    rf"""(?<=[\d}}\w)%/])\s*(?:
      {_TEXT_UNIT}
    | (?<=\s)\(\s*[A-Za-z]{{3,}}[A-Za-z\ .]*\)                # 18 (dollars)
    | (?<=[\d\s}}])(?:(?:sq(?:uare)?|cu(?:bic)?)\.?\s+)?
      (?:(?<=\s)[^\W\d_]{{4,}}|(?<=\s)[JNWVKC]|(?<=\}})C|[A-Za-z]{{1,3}}/[A-Za-z]{{1,3}}|m(?=\^[23])
        |(?:{_SHORT_UNITS})s?(?![A-Za-z]))\.?
      (?:[\s/]+(?:[A-Za-z]{{2,}}|[smhg]))*                    # 72 apples, 20 km/h
    | [\u4e00-\u9fff]{{1,4}}                                  # 5元
    )(?:\s*\^\s*\{{?-?[123]\}}?)?\s*$""",
    re.X,
)
# Words that change the value.
_NO_UNIT = re.compile(
    r"(?<!\\)\b(?:and|or|if|for|where|mod|hundred|thousand|[mbtr]+illion|dozen|hal(?:f|ves)|thirds?"
    r"|quarters?"
    r"|(?:four|fif|six|seven|eigh|nin|ten|hundred|thousand)ths?|squared?(?!\s)|cubed?(?!\s)|factorial"
    r"|root|pi|times|plus|minus|over|more|less|alpha|beta|gamma|delta|theta|lambda|mu|sigma|omega|phi)s?\b",
    re.I,
)


@lru_cache(maxsize=256)
def without_unit(text: str) -> str:
    """The value without the unit after it: `35 \\text{ cm}`, `72 apples`, `864 in^2`."""
    units = _TEXT_UNITS.search(text)
    if units and not _NO_UNIT.search(units[0]) and _HOLDS_VALUE.search(text[: units.start()]):
        text = text[: units.start()].strip()
    for _ in range(2):  # a unit of two words, or one behind a degree sign
        match = _UNIT.search(text)
        if match is None or _NO_UNIT.search(match[0]) or FUNCTION.search(match[0]):
            break
        head = text[: match.start()].strip()
        if not _HOLDS_VALUE.search(head) or _WORD_INSIDE.search(head):
            break
        text = head
    return text


# Several of them, as in `\text{kg} \cdot \text{m}/\text{s}^2`.
_TEXT_UNITS = re.compile(
    rf"(?<=[\d}})\s]){_TEXT_UNIT}(?:\s|/|\\cdot(?![A-Za-z])|{_TEXT_UNIT}|\^\s*\{{?-?\d\}}?)*$"
)
_HOLDS_VALUE = re.compile(r"\d|\\pi|\\frac|\\sqrt")
_WORD_INSIDE = re.compile(r"(?<![\\A-Za-z])[^\W\d_]{4,}\s")
