"""Normalises the notation of answers, and recognises words and multiple-choice options."""

from __future__ import annotations

import re

from capo_wire.answers.quantities import CURRENCY, FUNCTION, without_unit
from capo_wire.answers.values import clean

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
    """The answer in a normal form: `\\dfrac` as `\\frac`, `≤` as `\\leq`, `°` as a unit."""
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
    """A text for comparison: without spaces, and without braces around one character.

    Spaces between digits are kept: `1 1/2` is not `11/2`.
    """
    text = re.sub(r"(?<!\d)\s+|\s+(?!\d)", "", text)
    return re.sub(r"\{(\w)\}", r"\1", text)


# ------------------------------------------------------------------------------ words, options

_CONNECTIVE = re.compile(r"\\text\{\s*,?\s*(?:and|or)\s*,?\s*\}")
_TEXT = re.compile(r"\\text\{([^{}]*)\}")


def has_words(text: str) -> bool:
    """Whether it contains words, which would be parsed as products of variables."""
    text = without_unit(_CONNECTIVE.sub(",", text)).replace("\\text{degrees}", "")
    for inside in _TEXT.findall(text):
        if len(inside.strip()) > 1:
            return True
    bare = re.sub(
        r"\\(?:begin|end)\{\w+\}|\\operatorname\*?\{\w+\}|\\[A-Za-z]+", " ", _TEXT.sub(" ", text)
    )
    bare = FUNCTION.sub(" ", bare)
    return bool(re.search(r"[^\W\d_]{4,}", bare)) or (
        "\\" not in text
        and bool(re.fullmatch(r"[^\W\d_]{2,}(?:[\s-]+[^\W\d_]{2,})+|yes|no", bare.strip(), re.I))
    )


def as_words(text: str) -> str:
    """Words for comparison: in lower case, without commands and punctuation."""
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
    """Whether two times are equal (`5:30` equals 5:30 p.m.; a.m. does not); None if not times."""
    ours, theirs = (
        _CLOCK.fullmatch(_TEXT.sub(r" \1", text).strip()) for text in (answer, reference)
    )
    if ours is None or theirs is None:
        return None
    times = {tuple(int(part or 0) for part in match.groups()[:3]) for match in (ours, theirs)}
    halves = {match[4].lower() for match in (ours, theirs) if match[4]}
    return len(times) == 1 and len(halves) < 2


# --------------------------------------------------------------------------------- equations

_TUPLE_NAME = re.compile(r"\(\s*(?:[a-z]\s*,\s*)+[a-z]\s*\)\s*=\s*")
_NAMED = re.compile(
    r"(?:\\text\{[^{}]*\}|[A-Za-z][A-Za-z ]{0,30}|\\[a-z]+)"
    r"(?:_\{?\w+\}?|')?\s*(?:\([A-Za-z, ]+\))?\s*(?:=|\\(?:in|approx|equiv)(?![A-Za-z]))\s*(?=\S)"
)
_EQUALS = re.compile(r"(?<![<>!\\])=")


def same_sides(answer: str, reference: str) -> tuple[str, str]:
    """Both without a name in front (`x =`), if they have the same or only one is an equation."""
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
    """The name in front: `y=` of `y(x) = `."""
    return as_text(re.sub(r"(?<=[a-z])\s*\([a-z]\)(?=\s*=)", "", text))


def _value_side(text: str, other: str) -> str:
    """The last side of `96 - 75 = 21` if the other answer is not an equation."""
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
FUNCTIONS = "sqrt|sin|cos|tan|cot|sec|csc|arcsin|arccos|arctan|log|ln|exp|pi|theta"
_PLAIN = (
    (_NUMPY, ""),
    (re.compile(r"\*\*\s*\(([^()]*)\)"), r"^{\1}"),
    (re.compile(r"\*\*"), "^"),
    (re.compile(r"\*\s*I\b"), "i"),
    (re.compile(r"\*"), r"\\cdot "),
    (re.compile(r"\\?(?<![A-Za-z])sqrt\s*\(([^()]*)\)"), r"\\sqrt{\1}"),
    (re.compile(r"\\?sqrt\s*(\d+|[a-z])"), r"\\sqrt{\1}"),
    (re.compile(_NOT_IN_A_NAME + rf"({FUNCTIONS})(?![A-Za-z])"), r"\\\1"),
    (re.compile(_NOT_IN_A_NAME + r"(?:infinity|inf|oo)(?![A-Za-z])"), r"\\infty"),
    (re.compile(r"\^\s*\(([^()]*)\)"), r"^{\1}"),
)


def as_latex(text: str) -> str:
    """A scalar as LaTeX, without its unit and currency."""
    text = CURRENCY.sub(r"\1", text)
    if re.search(r"sin|cos|tan|cot|sec|csc", text):
        text = re.sub(r"(\d+(?:\.\d+)?)\s*\\text\{degrees\}", r"(\\frac{\1\\pi}{180})", text)
    text = without_unit(text).replace("\\text{degrees}", "")
    for pattern, replacement in _PLAIN:
        text = pattern.sub(replacement, text)
    return text
