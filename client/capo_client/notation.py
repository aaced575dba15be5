"""How answers are written: one notation for many; the words, options and numbers in them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

from capo_client.values import clean

_FONT = "bf|it|rm|tt|sf|large|Large|LARGE|huge|Huge|small|normalsize|displaystyle|textstyle"
_WRITTEN: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"\\(?:m?left|m?right|[bB]igg?[lr]?)(?![A-Za-z])\s*\.?"), ""),
    (re.compile(rf"\\(?:{_FONT}|limits|strut)(?![A-Za-z])|\\tag\*?\{{[^{{}}]*\}}"), ""),
    (re.compile(r"\\(?:text)?color\{[^{}]*\}"), ""),
    (re.compile(r"(?<!\\)\\!\s*"), ""),
    (re.compile(r"(?<!\\)\\[,;:> ]|\\q?quad(?![A-Za-z])|~|[\u00a0\u2009\u202f\u2007]"), " "),
    (re.compile(r"(?<!\\)\\[()\[\]]"), ""),
    (re.compile(r"\\?\$|[€£¥₹¢]|\\(?:pounds|euro|yen|textdollar)(?![A-Za-z])"), ""),
    (re.compile(r"\\[dtc]frac(?![A-Za-z])"), r"\\frac"),
    (re.compile(r"\\(?:mathbf|boldsymbol|bm|vec|hat|mathsf)\s*\{([^{}]*)\}"), r"\1"),
    (re.compile(r"\\underline\s*\{([^{}]*)\}|\\overline\s*\{([A-Za-z]{2,})\}"), r"\1\2"),
    (
        re.compile(r"\\(?:mbox|textrm|textbf|textit|textnormal|mathrm|mathit)(?=\s*\{)"),
        r"\\text",
    ),
    (re.compile(r"\\text\s+\{"), r"\\text{"),
    (re.compile(r"\\text\{([eidx]|[A-Z](?=\}\d))\}"), r"\1"),
    (re.compile(r"\\text\{\s*(?:USD|EUR|GBP|Rs\.?)?\s*\}"), ""),
    (re.compile(r"\\le(?![A-Za-z])|\\leqslant(?![A-Za-z])|<="), r"\\leq"),
    (re.compile(r"\\ge(?![A-Za-z])|\\geqslant(?![A-Za-z])|>="), r"\\geq"),
    (re.compile(r"\\lt(?![A-Za-z])"), "<"),
    (re.compile(r"\\gt(?![A-Za-z])"), ">"),
    (re.compile(r"\\(?:lbrace|\{)"), r"\\{"),
    (re.compile(r"\\(?:rbrace|\})"), r"\\}"),
    (re.compile(r"\\[lc]?dots(?![A-Za-z])|…|(?<!\.)\.\.\.(?!\.)"), r"\\dots"),
    (re.compile(r"\^\{?\\?(?:circ|degree)\}?|°|º|\\degree(?![A-Za-z])"), r"\\text{degrees}"),
    (
        re.compile(r"(?<!\\)%|\\text\{\s*(?:percent|percentage|pct)\s*\}|\b(?:percent|pct)\b"),
        r"\\%",
    ),
    (re.compile(r"\{,\}"), ","),
    (re.compile(r"\{:\}|\\colon(?![A-Za-z])"), ":"),
    (re.compile(r"\\\\\[-?\d+(?:pt|em|ex|mm)\]"), r"\\\\"),
    (re.compile(r"\{?\s*(\w+)\s*\\choose\s*(\w+)\s*\}?"), r"\\binom{\1}{\2}"),
    (re.compile(r"(?<=\d)\.\s+(?=\d)"), "."),
    (re.compile(r"√\s*(\d+|[A-Za-z]|\([^()]*\)|\{[^{}]*\})"), r"\\sqrt{\1}"),
    (re.compile(r"\\varnothing(?![A-Za-z])|\\\{\s*\\\}"), r"\\emptyset"),
    (re.compile(r"\\langle(?![A-Za-z])"), "("),
    (re.compile(r"\\rangle(?![A-Za-z])"), ")"),
    (re.compile(r"\\bigcup(?![A-Za-z])|(?<=[)\]])\s*U\s*(?=[(\[])"), r"\\cup "),
    (re.compile(r"\\(sin|cos|tan)\s*\^\s*\{?\s*-1\s*\}"), r"\\arc\1"),
    (re.compile(r"(?<=\d)\s*(?:\\text\{\s*to\s*\}|to)\s*(?=\d)"), ":"),
    (re.compile(r"\\(?:p?mod|bmod)(?![A-Za-z])\s*\{?\(?\s*(\w+)\s*\)?\}?"), r"\\pmod{\1}"),
    (re.compile(r"\\log_\{?e\}?(?![A-Za-z])"), r"\\ln"),
    (re.compile(r"(?<=\d)(?:st|nd|rd|th)\b"), ""),
    (re.compile(r"(?<=\{)small(?=matrix\})"), ""),
    (re.compile(r"\\begin\{array\}\s*\{[^{}]*\}"), r"\\begin{matrix}"),
    (re.compile(r"\\end\{array\}"), r"\\end{matrix}"),
    (re.compile(r"\[?\\begin\{[pbB]?matrix\}"), r"\\begin{pmatrix}"),
    (re.compile(r"\\end\{[pbB]?matrix\}\]?"), r"\\end{pmatrix}"),
    (re.compile(r"\\(?:begin|end)\{(?:aligned|align\*?|gathered)\}|&(?==)"), ""),
)
# What may stand in front of a value, or around it.
_LABEL = re.compile(
    r"(?:\\text\{\s*)?(?:the\s+)?(?:final\s+)?(?:answer|ans|total|result|solution)\s*(?:is\b|:|=)"
    r"\s*\}?\s*|\\approx(?![A-Za-z])\s*|≈\s*",
    re.I,
)
_WRAPPED = re.compile(r"\\text\{([^{}]*)\}|\{([^{}]*)\}|\\begin\{cases\}([^&]*)\\end\{cases\}")
_SIGNS = str.maketrans("−–‑﹣－＝（），；：％、或", "-----=(),;:%,;")
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
    text = _LABEL.sub("", clean(re.sub(r"\s+", " ", text)), count=1) if _LABEL.match(text) else text
    text = clean(re.sub(r"\s+", " ", text))
    while wrapped := _WRAPPED.fullmatch(text):
        inner = wrapped[1] or wrapped[2] or (wrapped[3] or "").replace("\\\\", ",")
        text = clean(inner)
    if text in ("\\mathbb{R}", "\\R", "ℝ"):
        return "(-\\infty,\\infty)"
    set_builder = _SET_BUILDER.fullmatch(text)
    return set_builder[1].strip() if set_builder else text


# {x | x < 3}, {x : x < 3}
_SET_BUILDER = re.compile(
    r"\\\{\s*[a-z](?:\s*\\in\s*\\mathbb\{R\})?\s*(?:\\mid(?![a-z])|\||:)(.*)\\\}"
)


def as_text(text: str) -> str:
    """For comparison as text: without spaces, and without braces that hold one character.

    `1 1/2` is not `11/2`: between digits a space stays.
    """
    text = re.sub(r"(?<!\d)\s+|\s+(?!\d)", "", text)
    return re.sub(r"\{(\w)\}", r"\1", text)


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
    text = without_unit(_CONNECTIVE.sub(",", text)).replace("\\text{degrees}", "")
    for inside in _TEXT.findall(text):
        if len(inside.strip()) > 1:
            return True
    bare = re.sub(
        r"\\(?:begin|end)\{\w+\}|\\operatorname\*?\{\w+\}|\\[A-Za-z]+", " ", _TEXT.sub(" ", text)
    )
    bare = _FUNCTION.sub(" ", bare)
    return bool(re.search(r"[^\W\d_]{4,}", bare)) or (
        "\\" not in text
        and bool(re.fullmatch(r"[^\W\d_]{2,}(?:[\s-]+[^\W\d_]{2,})+|yes|no", bare.strip(), re.I))
    )


def as_words(text: str) -> str:
    """For comparison as words: in lower case, without commands and punctuation."""
    text = re.sub(r"\\text\{([^{}]*)\}", r" \1 ", text)
    text = re.sub(r"\band\b", " ", text.casefold())
    return re.sub(r"[^\w+\-*/=<>().]+", " ", text).strip(" .")


def options(text: str) -> frozenset[str]:
    """The letters of a multiple choice: of `C`, `(C)`, `C: because`, `(C) 12`, `A, C` or `AC`."""
    text = re.sub(r"^(?:option|choice|answer)\s+", "", _TEXT.sub(r"\1", text).strip(), flags=re.I)
    letters = re.findall(r"[A-J]", text)
    if _SEVERAL.fullmatch(text):
        return frozenset(letters) if sorted(set(letters)) == sorted(letters) else frozenset()
    if "=" in text or not _OPTION.match(text):
        return frozenset()
    return frozenset(letter for found in _OPTION.findall(text) for letter in found if letter)


_SEVERAL = re.compile(r"\(?[A-J]\)?(?:(?:\s|,|and|or|&)*\(?[A-J]\)?)*")
_OPTION = re.compile(
    r"\(([A-J])\)|(?<![A-Za-z])([A-J])(?=[).:]|\s+[-–]\s)|\b(?:or|and)\s+\(?([A-J])(?![A-Za-z])"
)


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
    """An exact number, of which 7% is 7 with `percent`; `places` are its decimals as written."""

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
_CURRENCY = re.compile(r"^([-+]?)\s*(?:(?:USD|EUR|GBP|Rs\.?)\s)\s*")
_MOST_DIGITS = 400  # of a number that is compared as one
# A decimal stands for what it agrees with to six significant digits: 0.333333 is 1/3, 0.33 is not.
DECIMAL_TOLERANCE = Fraction(1, 1_000_000)
_MANY_PLACES = 6  # decimals of numbers that were cut, not measured
_FLOAT_TOLERANCE = Fraction(1, 10**12)  # 0.30000000000000004 is 0.3


def number(text: str) -> Number | None:
    """The number that a text is: integer, decimal, fraction, mixed, power of ten, percentage."""
    text = _CURRENCY.sub(r"\1", without_unit(text)).strip()
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

    A percentage is also the number without its sign, and a share: 7% is 7 and 0.07. A decimal
    stands for a fraction that none can write, to six significant digits.
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
    """Whether it can be written with finitely many decimals."""
    rest = value.denominator
    for prime in (2, 5):
        while rest % prime == 0:
            rest //= prime
    return rest == 1


_SHORT_UNITS = (
    "[ckm]m|kg|mg|ft|in|mi|yd|lbs?|oz|hrs?|min|sec|m[lL]|mph|kph|deg|rad|mol|gal|cup|day|men|box"
    "|USD|EUR|GBP"
)
_UNIT = re.compile(
    rf"""(?<=[\d}}\w)%/])\s*(?:
      \\text\{{\s*[msghLNJWVKCFl]\s*\}}                         # \text{{m}}, but not 3\text{{x}}
    | \\text\{{(?!\s*(?:and|or|if|for|where|to)\b|[A-Z]{{2,3}}\}})[^{{}}]{{2,}}\}}
    | (?<=\s)\(\s*[A-Za-z]{{3,}}[A-Za-z\ .]*\)                # 18 (dollars)
    | (?<=[\d\s}}])(?:(?:sq(?:uare)?|cu(?:bic)?)\.?\s+)?
      (?:(?<=\s)[^\W\d_]{{4,}}|(?<=\s)[JNWVKC]|(?<=\}})C|\\Omega|[A-Za-z]{{1,3}}/[A-Za-z]{{1,3}}|m(?=\^[23])
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
    r"|root|times|plus|minus|over|more|less|alpha|beta|gamma|delta|theta|lambda|mu|sigma|omega|phi)s?\b",
    re.I,
)


@lru_cache(maxsize=256)
def without_unit(text: str) -> str:
    """Without a unit that stands behind a value: `35 \\text{ cm}`, `72 apples`, `864 in^2`."""
    units = _TEXT_UNITS.search(text)
    if units and not _NO_UNIT.search(units[0]) and _HOLDS_VALUE.search(text[: units.start()]):
        text = text[: units.start()].strip()
    for _ in range(2):  # a unit of two words, or one behind a degree sign
        match = _UNIT.search(text)
        if match is None or _NO_UNIT.search(match[0]) or _FUNCTION.search(match[0]):
            break
        head = text[: match.start()].strip()
        if not _HOLDS_VALUE.search(head) or _WORD_INSIDE.search(head):
            break
        text = head
    return text


# Units in `\text`, as in `\text{kg} \cdot \text{m}/\text{s}^2`.
_TEXT_UNIT = (
    r"(?:\\mu\s*)?(?:\\text\{(?:\s*[msghLNJWVKCFl]\s*"
    r"|(?!\s*(?:and|or|if|for|where|to)\b|[A-Z]{2,3}\})[^{}]{2,})\}|\\Omega|\\AA|Å)"
)
_TEXT_UNITS = re.compile(
    rf"(?<=[\d}})\s]){_TEXT_UNIT}(?:\s|/|\\cdot(?![A-Za-z])|{_TEXT_UNIT}|\^\s*\{{?-?\d\}}?)*$"
)
_HOLDS_VALUE = re.compile(r"\d|\\pi|\\frac|\\sqrt")
_WORD_INSIDE = re.compile(r"(?<![\\A-Za-z])[^\W\d_]{4,}\s")


# --------------------------------------------------------------------------------- equations

_TUPLE_NAME = re.compile(r"\(\s*(?:[a-z]\s*,\s*)+[a-z]\s*\)\s*=\s*")
_NAMED = re.compile(
    r"(?:\\text\{[^{}]*\}|[A-Za-z][A-Za-z ]{0,30}|\\[a-z]+)"
    r"(?:_\{?\w+\}?|')?\s*(?:\([A-Za-z, ]+\))?\s*(?:=|\\(?:in|approx|equiv)(?![A-Za-z]))\s*(?=\S)"
)
_EQUALS = re.compile(r"(?<![<>!\\])=")


def same_sides(answer: str, reference: str) -> tuple[str, str]:
    """Without the name in front that both have, or that one has where the other is no equation."""
    answer, reference = (_TUPLE_NAME.sub("", text, count=1) for text in (answer, reference))
    ours, theirs = _NAMED.match(answer), _NAMED.match(reference)
    if ours and theirs:
        values = answer[ours.end() :], reference[theirs.end() :]
        alike = _name(ours[0]) == _name(theirs[0]) and not _EQUALS.search(" ".join(values))
        return values if alike else (answer, reference)
    if theirs and not _EQUALS.search(answer):
        reference = reference[theirs.end() :]
    elif ours and not _EQUALS.search(reference):
        answer = answer[ours.end() :]
    return _value_side(answer, reference), _value_side(reference, answer)


def _name(text: str) -> str:
    """Of `y(x) = ` it is `y=`."""
    return as_text(re.sub(r"(?<=[a-z])\s*\([a-z]\)(?=\s*=)", "", text))


def _value_side(text: str, other: str) -> str:
    """The last side of `96 - 75 = 21` where the other answer is no equation."""
    sides = _EQUALS.split(text)
    if len(sides) == 1 or _EQUALS.search(other) or "," in text:
        return text
    variables = re.search(r"[A-Za-z]", re.sub(r"\\[A-Za-z]+", "", text))
    return text if variables and len(sides) == 2 else sides[-1].strip()


def is_relation(text: str) -> bool:
    """Whether it is an equation or inequality."""
    return bool(re.search(r"[<>]|\\[lg]eq(?![A-Za-z])|\\neq|=", text))


# ------------------------------------------------------------------------------------- LaTeX

_NOT_IN_A_NAME = r"(?<![\\A-Za-z])"
_NUMPY = re.compile(r"(?<![A-Za-z])(?:np|math|sympy)\.")
_FUNCTIONS = "sqrt|sin|cos|tan|cot|sec|csc|arcsin|arccos|arctan|log|ln|exp|pi|theta"
_PLAIN = (
    (_NUMPY, ""),
    (re.compile(r"\*\*\s*\(([^()]*)\)"), r"^{\1}"),
    (re.compile(r"\*\*"), "^"),
    (re.compile(r"\*\s*I\b"), "i"),
    (re.compile(r"\*"), r"\\cdot "),
    (re.compile(r"\\?(?<![A-Za-z])sqrt\s*\(([^()]*)\)"), r"\\sqrt{\1}"),
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
    text = without_unit(text).replace("\\text{degrees}", "")
    for pattern, replacement in _PLAIN:
        text = pattern.sub(replacement, text)
    return text
