"""Finds the equations in a text and checks them exactly: `3 * (4 + 5) = 27`.

Supported are chains of equalities between arithmetic expressions (`+ - * / ^`, brackets, percent,
GSM8K's `<<4*3=12>>`, the most common LaTeX); words and currencies after numbers are units. Anything
in doubt is skipped: variables, functions, conversions of units, rounding, mixed numbers, "3 * 4 =
12 + 5 = 17". Run time is linear in the text, and numbers are bounded.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction

from capo_service.core.arithmetic.evaluate import DoubtError, Reader, Side, Token, as_text, compare

_GSM8K = re.compile(r"<<([^<>]{1,200})>>")
_LIST_MARK = re.compile(r"^[ \t]*(?:\d{1,3}[.)]|[-*+•])[ \t]+", re.M)
_FRACTION = re.compile(r"\\d?frac\{([^{}]{1,80})\}\{([^{}]{1,80})\}")
_BRACED = re.compile(r"\\(?:boxed|text|mathrm|mathbf)\{([^{}]{1,200})\}")
_LATEX = {
    r"\times": "*",
    r"\cdot": "*",
    r"\div": "/",
    r"\left": "",
    r"\right": "",
    r"\%": "%",
    r"\$": "$",
    r"\,": " ",
    r"\;": " ",
    r"\(": " | ",
    r"\)": " | ",
    r"\[": " | ",
    r"\]": " | ",
}
_LATEX_WORD = re.compile("|".join(re.escape(word) for word in _LATEX))
_SIGNS = str.maketrans("×∗⋅·∙÷−–[]\u00a0\u202f", "*****/--()  ") | {  # noqa: RUF001
    ord("²"): "^2",
    ord("³"): "^3",
}
_TOKEN = re.compile(
    r"""(?P<number>\d{1,3}(?:,\d{3})+(?:\.\d+)?(?![\d])|\d+(?:\.\d+)?|\.\d+)
    |(?P<other><=|>=|!=|==|=>|->|\.\.+)
    |(?P<op>\*\*|[-+*/^])|(?P<open>\()|(?P<close>\))|(?P<equals>=)|(?P<percent>%)
    |(?P<money>[$€£])|(?P<word>[^\W\d_]+(?:'[a-z]+)?)|(?P<break>\S)|(?P<line>\n)""",
    re.X,
)


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Words that are not units.
_PLAIN = _words("""
    a an and are as at because but by for from gives hence if in into is it its let makes
    means of on or per remaining so than that the then therefore there thus to total was we
    were when where which will with he she they you i each every
""")
# After one of these words a number is part of a larger expression in words.
_HOLDS = _words("""
    of mod modulo by over plus minus times less than to from sin cos tan log ln exp sqrt
    root gcd lcm max min choose divided multiplied added subtracted average sum product
    difference
""")
_SCALES = _words("""
    dozen dozens hundred hundreds thousand thousands million millions billion billions
    trillion k half halves third thirds quarter quarters fourth fourths fifth fifths squared
    cubed
""")
_COUNTED = _words("""
    step steps day days week weeks page pages question questions chapter chapters year years
    hour hours month months
""")
_ENDS = ("number", "close", "percent", "unit")  # kinds of token that an expression may end with


@dataclass(frozen=True, slots=True)
class Equation:
    """`left = right` as in the text, the value of the left side, and whether they are equal."""

    left: str
    right: str
    value: Fraction
    holds: bool

    def __str__(self) -> str:
        text = f"{self.left} = {self.right}"
        return text if self.holds else f"{text}, but it is {as_text(self.value)}"


def equations(text: str) -> list[Equation]:
    """The equations of a text that can be checked, in the order of the text."""
    found: list[Equation] = []
    inside = [match[1] for match in _GSM8K.finditer(text)]
    for part in (_GSM8K.sub(" ", text), *inside):
        found += _equations_of(_plain(part))
    return found


def false_equations(text: str) -> list[Equation]:
    """The equations of a text that do not hold."""
    return [equation for equation in equations(text) if not equation.holds]


def _plain(text: str) -> str:
    text = text.translate(_SIGNS)
    if "\\" in text:
        text = _FRACTION.sub(r"((\1)/(\2))", _BRACED.sub(r"\1", text))
        text = _LATEX_WORD.sub(lambda match: _LATEX[match[0]], text)
    return _LIST_MARK.sub("", text)


def _equations_of(text: str) -> Iterator[Equation]:
    tokens = _classified(text)
    signs = [i for i, token in enumerate(tokens) if token.kind == "equals"]
    left: Side | None = None
    for number, at in enumerate(signs):
        stop = signs[number + 1] if number + 1 < len(signs) else len(tokens)
        before = signs[number - 1] + 1 if number else 0
        if left is None:
            left = _suffix(text, tokens, before, at)
        right, whole = _prefix(text, tokens, at + 1, stop)
        if left is not None and right is not None and (left.operators or right.operators):
            holds = compare(left, right)
            if holds is not None:
                yield Equation(left.text, right.text, left.value, holds)
        left = right if whole and number + 1 < len(signs) else None


def _classified(text: str) -> list[Token]:
    tokens: list[Token] = []
    for match in _TOKEN.finditer(text):
        kind = match.lastgroup or "break"
        token = Token(kind, match[0], match.start(), match.end())
        before = tokens[-1] if tokens else None
        follows = before is not None and before.kind in _ENDS
        if kind == "op" and match[0] in "+-" and not follows:
            token.kind = "sign"
        elif kind == "word":
            _classify_word(token, before, follows, text)
        elif kind == "money":
            number = re.match(r"\s?[\d.]", text[token.end : token.end + 2])
            token.kind = "currency" if number and not (follows and " " in number[0]) else "unit"
            if token.kind == "unit" and not follows:
                token.kind, token.text = "break", "|"  # the dollar sign delimits TeX
        tokens.append(token)
    return tokens


def _classify_word(token: Token, before: Token | None, follows: bool, text: str) -> None:
    word = token.text.lower()
    if not follows or before is None:
        return
    if (word == "x" and re.match(r"\s*[\d($€£.]", text[token.end : token.end + 8])) or (
        word == "of" and before.kind == "percent"
    ):
        token.kind, token.text = "op", "*"
    elif word == "percent":
        token.kind = "percent"
    elif len(word) == 1 or word in _SCALES:
        token.kind = "variable"
    elif word not in _PLAIN:
        token.kind = "unit"


def _suffix(text: str, tokens: Sequence[Token], start: int, stop: int) -> Side | None:
    """The longest expression that ends at `stop`; None if text before it may be part of it."""
    best, depth, at = None, 0, stop
    while at > start:
        token = tokens[at - 1]
        if at < stop and not _may_follow(token, tokens[at]):
            break
        if at == stop and token.kind not in _ENDS:
            return None
        depth += (token.kind == "close") - (token.kind == "open")
        if depth < 0:
            break
        at -= 1
        if depth == 0 and token.kind in ("number", "open", "sign", "currency"):
            best = at
    if best is None:
        return None
    before = tokens[best - 1] if best else None
    if before is not None and not _may_precede(before, tokens[best], tokens, best):
        return None
    side = _read(text, tokens[best:stop])
    return side if side is not None and side.operators else None


def _may_precede(before: Token, first: Token, tokens: Sequence[Token], at: int) -> bool:
    """Whether the expression that starts with `first`, at index `at`, is complete after `before`.

    Otherwise `before` may be a part of it, so that its value is in doubt.
    """
    glued = before.end == first.start
    if before.kind == "equals":
        return True
    if before.kind in ("word", "unit"):
        word = before.text.lower()
        if glued or word in _HOLDS or (len(word) == 1 and word != "a"):
            return False
        if word == "and" and at > 1 and tokens[at - 2].kind in _ENDS:
            return False  # one and a half; the sum of 3 and 4
        if word in _COUNTED and tokens[at + 1].kind == "op":
            return False  # pages 3-5
        spaced = first.kind == "sign" and tokens[at + 1].start > first.end
        return not spaced
    if before.kind == "line":
        return True
    if before.kind == "break":
        last = tokens[at - 2].kind if at > 1 else ""
        if last == "number" and (glued or before.text == ","):
            return False
        return before.text in ",;:.|\"'" and last not in ("op", "sign")
    return False


def _prefix(text: str, tokens: Sequence[Token], start: int, stop: int) -> tuple[Side | None, bool]:
    """The longest expression that begins at `start`, and whether it reaches `stop`."""
    best, depth, at = None, 0, start
    while at < stop:
        token = tokens[at]
        first = at == start
        if first and token.kind not in ("number", "open", "sign", "currency"):
            break
        if not first and not _may_follow(tokens[at - 1], token):
            break
        depth += (token.kind == "open") - (token.kind == "close")
        if depth < 0:
            break
        at += 1
        if depth == 0 and token.kind in _ENDS:
            best = at
    if best is None:
        return None, False
    after = tokens[best] if best < len(tokens) else None
    following = tokens[best + 1] if best + 1 < len(tokens) else None
    if after is not None and best < stop and not _may_end(tokens[best - 1], after, following):
        return None, False
    return _read(text, tokens[start:best]), best == stop


def _may_end(last: Token, after: Token, following: Token | None) -> bool:
    """Whether the expression that ends with `last` is complete before `after`."""
    glued = last.end == after.start
    if after.kind in ("op", "sign", "number", "variable", "percent", "other", "currency"):
        return False
    if after.kind == "open":
        return not glued
    if after.kind == "break":
        # 3:4 is a ratio, and 3,5 is a decimal number in some languages.
        number = following is not None and following.kind == "number"
        joins = number and following is not None and following.start == after.end
        return after.text not in ("!?~≈:," if joins else "!?~≈")
    return not (after.kind == "word" and (glued or after.text == "and"))


_FOLLOWS = {
    "number": {"op", "close", "open", "percent", "unit"},
    "percent": {"op", "close", "unit"},
    "unit": {"op", "close", "unit"},
    "close": {"op", "close", "open", "percent", "unit"},
    "open": {"number", "open", "sign", "currency"},
    "op": {"number", "open", "sign", "currency"},
    "sign": {"number", "open", "currency"},
    "currency": {"number"},
}


def _may_follow(before: Token, token: Token) -> bool:
    return token.kind in _FOLLOWS.get(before.kind, ())


def _read(text: str, tokens: Sequence[Token]) -> Side | None:
    try:
        return Reader(text, tokens).side()
    except (DoubtError, ZeroDivisionError, IndexError, RecursionError):
        return None
