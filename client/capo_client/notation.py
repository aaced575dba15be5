"""How answers are written: one notation for many; the words, options and numbers in them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

from capo_client.values import clean

_WRITTEN: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"\\(?:left|right|m?left|m?right|[bB]igg?[lr]?)(?![A-Za-z])\s*"), ""),
    (re.compile(r"\\(?:displaystyle|textstyle|limits|strut)(?![A-Za-z])|\\tag\*?\{[^{}]*\}"), ""),
    (re.compile(r"(?<!\\)\\!\s*"), ""),
    (re.compile(r"(?<!\\)\\[,;:> ]|\\q?quad(?![A-Za-z])|~|[\u00a0\u2009\u202f\u2007]"), " "),
    (re.compile(r"\\[dtc]frac(?![A-Za-z])"), r"\\frac"),
    (
        re.compile(
            r"\\(?:mbox|textrm|textbf|textit|textnormal|mathrm|mathbf|mathit|operatorname\*?)(?=\s*\{)"
        ),
        r"\\text",
    ),
    (re.compile(r"\\text\s+\{"), r"\\text{"),
    (re.compile(r"\\le(?![A-Za-z])|\\leqslant(?![A-Za-z])|<="), r"\\leq"),
    (re.compile(r"\\ge(?![A-Za-z])|\\geqslant(?![A-Za-z])|>="), r"\\geq"),
    (re.compile(r"\\lt(?![A-Za-z])"), "<"),
    (re.compile(r"\\gt(?![A-Za-z])"), ">"),
    (re.compile(r"\\(?:lbrace|\{)"), r"\\{"),
    (re.compile(r"\\(?:rbrace|\})"), r"\\}"),
    (re.compile(r"\\[lc]?dots(?![A-Za-z])|…|(?<!\.)\.\.\.(?!\.)"), r"\\dots"),
    (re.compile(r"\^\{?\\?(?:circ|degree)\}?|°|º|\\degree(?![A-Za-z])"), r"\\text{degrees}"),
    (re.compile(r"\\\$|(?<![\\\w])\$"), r"\\$"),
    (
        re.compile(r"(?<!\\)%|\\text\{\s*(?:percent|percentage|pct)\s*\}|\b(?:percent|pct)\b"),
        r"\\%",
    ),
    (re.compile(r"\{,\}"), ","),
    (re.compile(r"√\s*(\d+|[A-Za-z]|\([^()]*\)|\{[^{}]*\})"), r"\\sqrt{\1}"),
    (re.compile(r"\\varnothing(?![A-Za-z])|\\\{\s*\\\}"), r"\\emptyset"),
    (re.compile(r"\\langle(?![A-Za-z])"), "("),
    (re.compile(r"\\rangle(?![A-Za-z])"), ")"),
    (re.compile(r"(?<=\{)small(?=matrix\})"), ""),
)
_SIGNS = str.maketrans("−–﹣－＝（），；：％", "----=(),;:%")
_SYMBOLS = str.maketrans(
    {
        "×": r"\times ",
        "·": r"\cdot ",
        "÷": r"\div ",
        "π": r"\pi ",
        "θ": r"\theta ",
        "∞": r"\infty ",
        "∅": r"\emptyset ",
        "∪": r"\cup ",
        "∩": r"\cap ",
        "∈": r"\in ",
        "≤": r"\leq ",
        "≥": r"\geq ",
        "≠": r"\neq ",
        "±": r"\pm ",
    }
    | {"²": "^2", "³": "^3", "½": " 1/2", "¼": " 1/4", "¾": " 3/4", "⅓": " 1/3", "⅔": " 2/3"}
)


def normal(text: str) -> str:
    """The answer in one way of writing: `\\dfrac` as `\\frac`, `≤` as `\\leq`, `°` as a unit."""
    text = clean(text).translate(_SIGNS).translate(_SYMBOLS)
    for pattern, replacement in _WRITTEN:
        text = pattern.sub(replacement, text)
    return clean(re.sub(r"\s+", " ", text))


def as_text(text: str) -> str:
    """For comparison as text: without spaces, and without braces that hold one character."""
    text = re.sub(r"\s+", "", text)
    return re.sub(r"(?<![a-z])\{(\w)\}", r"\1", text)


# ------------------------------------------------------------------------------ words, options

_CONNECTIVE = re.compile(r"\\text\{\s*,?\s*(?:and|or)\s*,?\s*\}")
_TEXT = re.compile(r"\\text\{([^{}]*)\}")
_FUNCTION = re.compile(
    r"\b(?:sqrt|sin|cos|tan|cot|sec|csc|arc(?:sin|cos|tan)|sinh|cosh|tanh|log|ln|exp|pi|theta|"
    r"infinity|inf|and|or|mod|gcd|lcm|max|min|abs|det|frac)\b",
    re.I,
)


def has_words(text: str) -> bool:
    """Whether there are words in it that mathematics would read as products of letters."""
    text = without_unit(_CONNECTIVE.sub(",", text))
    for inside in _TEXT.findall(text):
        if len(inside.strip()) > 1:
            return True
    bare = re.sub(r"\\(?:begin|end)\{\w+\}|\\[A-Za-z]+", " ", _TEXT.sub(" ", text))
    bare = _FUNCTION.sub(" ", bare)
    return bool(re.search(r"[^\W\d_]{4,}", bare)) or (
        "\\" not in text
        and bool(re.fullmatch(r"[^\W\d_]{2,}(?:[\s-]+[^\W\d_]{2,})+|yes|no", bare.strip(), re.I))
    )


def as_words(text: str) -> str:
    """For comparison as words: in lower case, without commands and punctuation."""
    text = re.sub(r"\\text\{([^{}]*)\}", r" \1 ", text)
    return re.sub(r"[^\w+\-*/=<>().]+", " ", text.casefold()).strip(" .")


def options(text: str) -> frozenset[str]:
    """The letters of a multiple choice: of `C`, `(C)`, `C: because`, `(C) 12`, `A, C` or `AC`."""
    text = _TEXT.sub(r"\1", text).strip()
    several = re.fullmatch(r"\(?[A-J]\)?(?:(?:\s|,|and|&)*\(?[A-J]\)?)*", text)
    if several:
        return frozenset(re.findall(r"[A-J]", text))
    match = re.match(r"\(([A-J])\)|([A-J])(?=[).:]|\s+[-–]\s)", text)
    if match is None or "=" in text:
        return frozenset()
    return frozenset(match[1] or match[2])


_CLOCK = re.compile(r"(\d{1,3}):([0-5]\d)(?::([0-5]\d))?\s*(?:([ap])\.?\s?m\.?)?", re.I)


def same_clock(answer: str, reference: str) -> bool | None:
    """Whether two times are one (`5:30` is 5:30 p.m., a.m. is not); None if one is no time."""
    ours, theirs = (
        _CLOCK.fullmatch(_TEXT.sub(r" \1", text).strip()) for text in (answer, reference)
    )
    if ours is None or theirs is None:
        return None
    times = {tuple(int(part or 0) for part in match.groups()[:3]) for match in (ours, theirs)}
    halves = {match[4].lower() for match in (ours, theirs) if match[4]}
    return len(times) == 1 and len(halves) < 2


# ----------------------------------------------------------------------------------- numbers


@dataclass(frozen=True, slots=True)
class Number:
    """An exact number: its values (of 7%: 7 and 0.07), and whether it is written as a decimal."""

    values: tuple[Fraction, ...]
    decimal: bool


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
    r"([-+]?)\s*(\d+)\s*(?:\\text\{\s*and\s*\}|and)?\s*(\\frac.+|(?<=\s)\d+\s*/\s*\d+)"
)
_CURRENCY = re.compile(r"^([-+]?)\s*(?:(?:US|A|C)?\\\$|[€£¥₹]|(?:USD|EUR|GBP|Rs\.?)\s)\s*")
_MOST_DIGITS = 400  # of a number that is compared as one
# A decimal stands for what it agrees with to six significant digits: 0.333333 is 1/3, 0.33 is not.
DECIMAL_TOLERANCE = Fraction(1, 1_000_000)


def number(text: str) -> Number | None:
    """The number that a text is: integer, decimal, fraction, mixed, power of ten, percentage."""
    text = _CURRENCY.sub(r"\1", without_unit(text)).strip()
    while text.startswith("{") and text.endswith("}") and "{" not in text[1:]:
        text = text[1:-1].strip()
    percent = text.endswith("\\%")
    if percent:
        text = text[:-2].strip()
    if len(text) > _MOST_DIGITS:
        return None
    value, decimal = _value(text), "." in text
    if value is None:
        return None
    return Number((value, value / 100) if percent else (value,), decimal)


def _value(text: str) -> Fraction | None:
    if match := _DECIMAL.fullmatch(text):
        sign, digits, power, exponent = match.groups()
        value = Fraction(re.sub(r"[, ]", "", digits).rstrip(".") or "0")
        return _signed(sign, value * Fraction(10) ** int(power or exponent or 0))
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
            return _signed(match[1], int(match[2]) + part)
    return None


def _signed(sign: str, value: Fraction) -> Fraction:
    return -value if sign == "-" else value


def same_number(left: Number, right: Number) -> bool:
    """Equal; decimals to six significant digits; a percentage as it is or as a share."""
    close = left.decimal or right.decimal
    return any(
        a == b or (close and abs(a - b) <= DECIMAL_TOLERANCE * max(abs(a), abs(b)))
        for a in left.values
        for b in right.values
    )


_UNIT = re.compile(
    r"""(?<=[\d}\w)%])\s*(?:
      \\text\{(?!\s*(?:and|or|if|for|where)\b)[^{}]*\}  # \text{ cm}
    | \(\s*[A-Za-z][A-Za-z\ .]*\)                      # 18 (dollars)
    | (?<=[\d\s}])(?:(?:sq(?:uare)?|cu(?:bic)?)\.?\s+)?
      (?:[A-Za-z]{3,}|[A-Za-z]{1,3}/[A-Za-z]{1,3}|[ckm]m|kg|mg|ft|in|mi|lb|oz|hr|m[lL])\.?
      (?:[\s/]+(?:[A-Za-z]{2,}|[smhg])){0,4}            # 72 apples, 5 dollars per hour, 20 km/h
    )(?:\s*\^\s*\{?[23]\}?)?\s*$""",
    re.X,
)
_NO_UNIT = re.compile(r"\s(?:and|or|if|for|where|mod)\s", re.I)


@lru_cache(maxsize=256)
def without_unit(text: str) -> str:
    """Without a unit that stands behind a value: `35 \\text{ cm}`, `72 apples`, `864 in^2`."""
    for _ in range(2):  # `\text{ cm}` and a degree sign, or a unit of two texts
        match = _UNIT.search(text)
        if match is None or _NO_UNIT.search(match[0]) or _FUNCTION.search(match[0]):
            break
        head = text[: match.start()].strip()
        if not re.search(r"\d|\\pi|\\frac|\\sqrt", head) or re.search(r"[^\W\d_]{4,}\s", head):
            break
        text = head
    return text


# --------------------------------------------------------------------------------- equations

_NAMED = re.compile(
    r"(?:\\text\{[^{}]*\}|[A-Za-z][A-Za-z ]{0,30}|\\[a-z]+|\((?:[a-z]\s*,\s*)+[a-z]\))"
    r"(?:_\{?\w+\}?|')?\s*(?:\([A-Za-z, ]+\))?\s*(?:=|\\(?:in|approx)(?![A-Za-z]))\s*(?=\S)"
)
_EQUALS = re.compile(r"(?<![<>!\\])=")


def same_sides(answer: str, reference: str) -> tuple[str, str]:
    """Without the name in front that both have, or that one has where the other is no equation."""
    ours, theirs = _NAMED.match(answer), _NAMED.match(reference)
    if ours and theirs:
        values = answer[ours.end() :], reference[theirs.end() :]
        alike = as_text(ours[0]) == as_text(theirs[0]) and not _EQUALS.search(" ".join(values))
        return values if alike else (answer, reference)
    if theirs and not _EQUALS.search(answer):
        reference = reference[theirs.end() :]
    elif ours and not _EQUALS.search(reference):
        answer = answer[ours.end() :]
    return _value_side(answer, reference), _value_side(reference, answer)


def _value_side(text: str, other: str) -> str:
    """The last side of `96 - 75 = 21` where the other answer is no equation."""
    sides = _EQUALS.split(text)
    if len(sides) == 1 or _EQUALS.search(other) or "," in text:
        return text
    variables = re.search(r"[A-Za-z]", re.sub(r"\\[A-Za-z]+", "", sides[0]))
    return text if variables and len(sides) == 2 else sides[-1].strip()


def is_relation(text: str) -> bool:
    """Whether it is an equation or inequality."""
    return bool(re.search(r"[<>]|\\[lg]eq(?![A-Za-z])|\\neq|=", text))


# ------------------------------------------------------------------------------------- LaTeX

_NOT_IN_A_NAME = r"(?<![\\A-Za-z])"
_FUNCTIONS = "sqrt|sin|cos|tan|cot|sec|csc|arcsin|arccos|arctan|log|ln|exp|pi|theta"
_PLAIN = (
    (re.compile(r"\*\*"), "^"),
    (re.compile(r"\*"), r"\\cdot "),
    (re.compile(_NOT_IN_A_NAME + r"sqrt\s*\(([^()]*)\)"), r"\\sqrt{\1}"),
    (re.compile(r"\\?sqrt\s*(\d+|[a-z])"), r"\\sqrt{\1}"),
    (re.compile(_NOT_IN_A_NAME + rf"({_FUNCTIONS})(?![A-Za-z])"), r"\\\1"),
    (re.compile(_NOT_IN_A_NAME + r"(?:infinity|inf|oo)(?![A-Za-z])"), r"\\infty"),
    (re.compile(r"\^\s*\(([^()]*)\)"), r"^{\1}"),
)


def as_latex(text: str) -> str:
    """A scalar as LaTeX, without its unit and currency."""
    text = _CURRENCY.sub(r"\1", text)
    if re.search(r"sin|cos|tan|cot|sec|csc", text):
        text = re.sub(r"(\d+(?:\.\d+)?)\s*\\text\{degrees\}", r"(\\frac{\1\\pi}{180})", text)
    text = without_unit(text)
    for pattern, replacement in _PLAIN:
        text = pattern.sub(replacement, text)
    return text
