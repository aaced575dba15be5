"""Recognises values in a text, and finds the last one."""

from __future__ import annotations

import re
from collections.abc import Sequence

_BLANK = " \t\r\n"
_STOPS = ".,;:。．"
_QUOTES = "\"'`“”‘’"
_DELIMITED = (
    ("$$", "$$"),
    ("\\[", "\\]"),
    ("\\(", "\\)"),
    ("$", "$"),
    ("**", "**"),
    ("__", "__"),
    ("*", "*"),
    ("<<", ">>"),
    *((quote, quote) for quote in "\"'`"),
    ("“", "”"),
    ("‘", "’"),
)
_TRAILING_SPACES = ("\\,", "\\;", "\\:", "\\!", "\\quad", "\\qquad")  # of LaTeX


def clean(text: str) -> str:
    """The value without spaces, emphasis, quotes, delimiters and a full stop around it."""
    previous = None
    while text != previous:
        previous = text
        text = text.strip(_BLANK)
        if text.endswith(_TRAILING_SPACES) or (text[-1:] == "\\" != text[-2:-1]):
            text = text[: text.rindex("\\")]
        if not text.endswith((".m.", ".M.", "..")):
            text = text.rstrip(_BLANK + _STOPS)
        for begin, end in _DELIMITED:
            inner = text[len(begin) : len(text) - len(end)]
            if (
                len(text) > len(begin) + len(end)
                and text.startswith(begin)
                and text.endswith(end)
                and not inner.endswith("\\")
                and begin not in inner
            ):
                text = inner
        for mark in ("**", "__", *_QUOTES):  # with one end outside of what was cut here
            if text.count(mark) == 1 and text.startswith(mark):
                text = text[len(mark) :]
            elif text.count(mark) == 1 and text.endswith(mark) and mark != "'":
                text = text[: -len(mark)]
    return text


_FUNCTION_WORDS = """
    sqrt sin cos tan cot sec csc arcsin arccos arctan sinh cosh tanh log ln exp pi theta phi inf
    infinity oo and or in min max gcd lcm mod abs det dim rank deg cdot times frac pm alpha beta
    gamma delta lambda mu sigma omega
"""
_FUNCTIONS = frozenset(_FUNCTION_WORDS.split())
# Of two or three letters; others of that length are products of variables.
_WORDS = """
    we so it is he the she as to of for by at an if let are has had now was not but its all any see
    our you his her day can get cm mm km kg ft hr min sec mph lb oz am pm mi yd cc ml
"""
_SHORT_WORDS = frozenset(_WORDS.split())
# A text with one of these is a sentence, whatever numbers are in it.
_VERBS = {"is", "are", "was", "were", "has", "have", "had", "be", "will", "would", "can", "must"}
_WORD_ANSWERS = ("yes", "no", "true", "false", "none", "undefined", "dne", "infinity")
_OPTION = re.compile(r"\(?[A-J]\)?(?:\s*[).:：]\s*\S.*)?|\(?[A-J]\)(?:\s.*)?", re.S)
_TOKEN = re.compile(
    r"\\(?:text(?:bf|rm|it)?|mbox|mathrm|operatorname)\s*\{[^{}]*\}|\\(?:begin|end)\{\w+\}"
    r"|\\[A-Za-z]+|[^\W\d_]{2,}|\d|\S|\s+"
)
_UNIT_WORDS = 5
_PROSE_BEHIND = re.compile(r"(?<!\bsq)(?<!\bcu)[.!?]\s+[A-Za-z]|,\s+(?!and\b|or\b)[A-Za-z]{2,}\s")


def is_value(text: str) -> bool:
    """Whether a text is a value as a whole: mathematics (with a unit), an option, yes or no."""
    text = text.strip()
    if not text or len(text) > 2000:
        return False
    if text.lower() in _WORD_ANSWERS or _OPTION.fullmatch(text):
        return True
    if _PROSE_BEHIND.search(text):
        return False
    has_value, words = False, 0
    for match in _TOKEN.finditer(text):
        piece = match[0]
        if piece.isspace():
            continue
        if piece[0] == "\\":
            has_value = True
        elif len(piece) > 1 and piece.lower() not in _FUNCTIONS and not _is_product(piece):
            words += 1
            if not has_value or piece.lower() in _VERBS:
                return False
        elif piece.isdigit() or piece.isalpha():
            if words and piece not in "23":  # a value behind words is prose, but for in^2
                return False
            has_value = True
        elif words and piece in "=+*<>":
            return False
    return has_value and words <= _UNIT_WORDS


def _is_product(piece: str) -> bool:
    """Whether it is a product of variables: `xy`, `abc`."""
    return len(piece) <= 3 and piece.isascii() and piece.lower() not in _SHORT_WORDS


def is_short_text(text: str) -> bool:
    """Whether it is a few words, as `ellipse` or `all real numbers except -4`, not a sentence."""
    words = len(text.split())
    equation = "=" in text and words > 3 and not re.search(r"[$\\]", text)
    return 0 < words <= 12 and len(text) <= 200 and "\n" not in text and not equation


def is_sentence(text: str) -> bool:
    """Whether it is a sentence of more than three words, formulas not counted."""
    words, position = 0, 0
    for start, end in [*math_spans(text), (len(text), len(text))]:
        words += len(text[position:start].split())
        position = end
    return text.rstrip().endswith((".", "。", "!", "?")) and words > 3


_OPENING = re.compile(r"\$\$?|\\[(\[]")
_CLOSING = {"$$": "$$", "$": "$", "\\(": "\\)", "\\[": "\\]"}
_LONGEST_SPAN = 2000


def math_spans(text: str) -> list[tuple[int, int]]:
    """The spans of formulas between dollars or brackets; `$5 and $6` are prices."""
    spans: list[tuple[int, int]] = []
    ends: dict[str, int] = {}  # where the next end of each kind is
    position = 0
    while match := _OPENING.search(text, position):
        opening, start = match[0], match.end()
        closing = _CLOSING[opening]
        if ends.get(closing, 0) < start and ends.get(closing) != -1:
            ends[closing] = text.find(closing, start)
        end = ends.get(closing, -1)
        if start <= end <= start + _LONGEST_SPAN and (
            opening != "$" or _is_inline(text[start:end], text[end + 1 : end + 2])
        ):
            position = end + len(closing)
            spans.append((match.start(), position))
        else:
            position = start
    return spans


def _is_inline(inside: str, after: str) -> bool:
    """Pandoc's rule for `$...$`, and formulas with spaces at both ends that hold a command."""
    if "\n" in inside or not inside.strip() or after.isdigit():
        return False
    tight = not inside[0].isspace() and not inside[-1].isspace()
    return tight or bool(re.search(r"[\\^_=]", inside) and inside[-1].isspace())


_OPERATOR = re.compile(r"[-+*/=×÷·^<>≤≥∪U]|\\(?:times|cdot|div|pm|leq?|geq?|cup)|[<>]=")
_OPERAND = re.compile(r".*[\d\\)\]].*|[A-Za-z]")


def last_value(text: str) -> str | None:
    """The last formula or number of a text, whole: `96 - 75 = 21`, `2 1/4`, `(3, 4]`, `$29.00`.

    None if there is no value, or the text negates it (`it is not 7`) or only bounds it (`over 7`).
    """
    spans = [span for span in math_spans(text) if re.search(r"\w", text[slice(*span)])]
    begin = spans[-1][1] if spans else 0
    words = list(_WORD.finditer(text, begin))
    last = next((i for i in range(len(words) - 1, -1, -1) if _DIGIT.search(words[i][0])), None)
    if last is None:
        if not spans:
            return None
        first_span = _first_joined(text, spans)
        values = [clean(text[slice(*span)]) for span in spans[first_span:]]
        return _unless_denied(text, spans[first_span][0], spans[-1][1], ", ".join(values))
    first, end = last, words[last].end()
    while first > 0 and _joined(text, words[first - 1], words[first]):
        first -= 1
    missing = _open_brackets(text[words[first].start() : end])
    while missing < 0 and first > 0 and "\n" not in text[words[first - 1].start() : end]:
        first -= 1
        missing += _open_brackets(words[first][0])
    start = words[first].start()
    value = _without_open_brackets(clean(text[start:end]).strip("*:!"))
    return _unless_denied(text, start, end, clean(value))


_DENIED_BEFORE = re.compile(
    r"(?:\bnot|n't|\bcannot|\bnever|\bneither|\bnor|\bat (?:least|most)"
    r"|\b(?:more|less|fewer|greater) than"
    r"|\bover|\bunder|\bbetween)(?:\s+(?:be|is|equal|equals|to|exactly))*[\s*]*$",
    re.I,
)
_SIGN_BEFORE = re.compile(r"\b(?:minus|negative)\s*$", re.I)
_DENIED_AFTER = re.compile(
    r"[\s$*.,)\]\\]*(?:(?:which|that|this)\s+)?(?:is|was|'s)(?:n't|\s+not|\s+wrong|\s+incorrect)\b",
    re.I,
)


def _unless_denied(text: str, start: int, end: int, value: str) -> str | None:
    before = text[max(0, start - 40) : start]
    if _DENIED_BEFORE.search(before) or _DENIED_AFTER.match(text, end):
        return None
    return f"-{value}" if _SIGN_BEFORE.search(before) else value


_WORD = re.compile(r"\S+")
_DIGIT = re.compile(r"\d")


def _open_brackets(text: str) -> int:
    """The number of opening brackets minus the number of closing ones."""
    return text.count("(") + text.count("[") - text.count(")") - text.count("]")


def _without_open_brackets(text: str) -> str:
    """`(12` and `12)` are 12; `[2, 5)` is as it is."""
    if _open_brackets(text) > 0 and text[:1] in ("(", "["):
        return text[1:]
    if _open_brackets(text) < 0 and text[-1:] in (")", "]"):
        return text[:-1]
    return text


def _first_joined(text: str, spans: Sequence[tuple[int, int]]) -> int:
    """The first of the last formulas separated by `and` or a comma only: `$x=6$ and $x=-2$`."""
    first = len(spans) - 1
    while first > 0 and re.fullmatch(
        r"\s*(?:,|;|and|or|, and|, or)\s*", text[spans[first - 1][1] : spans[first][0]]
    ):
        first -= 1
    return first


def _joined(text: str, before: re.Match[str], after: re.Match[str]) -> bool:
    """Whether two words of a text belong to one value."""
    left, right = before[0], after[0]
    if _OPERATOR.fullmatch(left):
        return True
    if left[-1] in ",.:;":
        return False
    if _OPERATOR.fullmatch(right):
        return bool(_OPERAND.fullmatch(left))
    if "\n" in text[before.end() : after.start()]:
        return False
    if re.fullmatch(r"[-+]?\d{1,3}", left) and re.fullmatch(r"\d{3}(?!\d).*", right):  # 1 000
        return True
    if right == "and":  # 1 and 1/4
        return bool(re.fullmatch(r"[-+]?\d+", left) and re.match(r"\s*\d+/\d", text[after.end() :]))
    if left == "and":
        return bool(re.match(r"\d+/\d", right) and re.search(r"\d\s*$", text[: before.start()]))
    return bool(re.fullmatch(r"[-+]?\d+", left) and re.fullmatch(r"\d+/\d+\W*", right))  # 2 1/4
