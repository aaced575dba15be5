"""Parser for the list of steps that a judge writes between its tags.

A list is accepted as a whole or refused: a partly understood list could blame the wrong steps.
"""

from __future__ import annotations

import re

from capo_service.core.step_code import SHORT_CODES

_MAX_PER_STEP = 48  # characters per step, above which a list is refused

# Full-width digits and separators, as judges that write Chinese or Japanese use them.
_WIDE = str.maketrans("０１２３４５６７８９，、；：（）［］＃＋＆～。", "0123456789,,;:()[]#+&~.")  # noqa: RUF001
_BULLET = re.compile(r"[-*•·‣◦–+]\s+")  # noqa: RUF001  # dashes meant
_NUMBERED = re.compile(r"(\d{1,4})[.)]\s+(?=\W{0,4}(?:step|第|步骤))")
_REMARK = re.compile(r"\([^()\d]{0,200}\)")
_DOUBT = re.compile(
    r"\b(?:not|no|\w+n't|correct|right|valid|fine|ok|okay|true|maybe|perhaps|possibly|probably)\b"
    r"|[?？对正]|没错|不是|可能"  # noqa: RUF001
)
_MARKS = str.maketrans(dict.fromkeys("*`\"'“”", " "))
_BETWEEN_DIGITS = re.compile(r"\d[*`\"'“”]+\d")
_CLOSING_STEP = re.compile(r"<\s*/\s*(?:step|paragraph)[^<>]{0,40}>")
_CALLED = re.compile(
    r"(?:only\s+|(?:the\s+)?(?:incorrect|wrong)\s+(?=steps?\b)|错误(?:的)?(?=步骤))"
)
_WRONG = re.compile(
    r"(?:\s{1,4}(?:is|are)\s+(?:all\s+|both\s+)?(?:wrong|incorrect|false|invalid|erroneous)"
    r"|\s{0,4}(?:都?是)?(?:错误|错|有误|不正确)的?)\Z"
)
_NUMBER = r"(0|[1-9]\d{0,8})(?!\d)"
# After the number in a step's head or tag.
CODE = rf"\s+(?:[b-df-hj-np-tv-xz]{{7}}|{'|'.join(SHORT_CODES)})\b"
_HEAD = re.compile(rf"\[\s*(?:step\s+)?{_NUMBER}{CODE}\s*\]")
_STEP = re.compile(
    r"\s*(?:<\s*)?(?:steps?\s*[:#]?\s*|(?:steps?|paragraph)[_-](?=\d)|步骤\s*:?\s*|第\s*|#)?"
    + _NUMBER
    + rf"(?:\s*步(?!骤))?(?:{CODE})?(?:\s*>)?"
)
_RANGE = re.compile(r"[-–—]|\.\.|[ \t]+(?:to|through)[ \t]+|[ \t]*[~至到][ \t]*")  # noqa: RUF001
_SEPARATOR = re.compile(
    r"\s*(?:[,;&+]|\band\b|以及|和|及|与|跟)\s*(?:\band\b|以及|和)?\s*|\s+|(?=<)"
)
_PAIRS = ("[]", "{}", "()")

_NONE = re.compile(
    r"none|n/?a|nil|null|empty|nothing|∅|[-–—]|no(?: (?:(?:incorrect |wrong )?steps?|errors))?"  # noqa: RUF001
    r"|all(?: steps are)? correct|[无無空]|[没沒]有|(?:没有|无)错误(?:步骤)?"
    r"|なし|없음|нет|keine|ninguno|aucune"
)
_ALL = {"all", "all steps", "every step"}


def read_list(body: str, n_steps: int) -> frozenset[int]:
    """The steps that `body` names, of steps 0 to `n_steps` - 1. A blank body names none.

    Raises:
        ValueError: it is not a list of steps.
    """
    if len(body) > _MAX_PER_STEP * (n_steps + 4):
        raise ValueError("the list of wrong steps is too long")
    plain = _plain(body).strip()
    if plain in ("", "[]", "{}", "[ ]"):
        return frozenset()
    plain = _without_bullets(plain)
    if _DOUBT.search(" ".join(_REMARK.findall(plain))) or _BETWEEN_DIGITS.search(plain):
        raise _not_a_list(body)
    plain = _without_frame(plain)
    if _NONE.fullmatch(plain):
        return frozenset()
    if plain in _ALL:
        return frozenset(range(n_steps))
    return _read_items(plain, body, n_steps)


def _plain(text: str) -> str:
    """In narrow lower-case characters, with the number alone for a step's head."""
    return _HEAD.sub(r"\1", text.translate(_WIDE).lower())


def _not_a_list(body: str) -> ValueError:
    return ValueError(f"not a list of steps: {body.strip()[:80]!r}")


def _without_frame(plain: str) -> str:
    """The bare list: without remarks, marks, brackets and "the wrong steps ... are wrong"."""
    plain = _CLOSING_STEP.sub(" ", _REMARK.sub(" ", plain)).translate(_MARKS).strip()
    plain = plain[:-1].strip() if plain.endswith((".", ",", ";")) else plain
    if plain[:1] + plain[-1:] in _PAIRS:
        plain = plain[1:-1].strip()
    if _NONE.fullmatch(plain):
        return plain
    called = _CALLED.match(plain)
    return _WRONG.sub("", plain[called.end() :] if called else plain)


def _read_items(plain: str, body: str, n_steps: int) -> frozenset[int]:
    """The steps of a list of numbers and ranges; `body` is for the error message."""
    wrong: set[int] = set()
    at = 0
    while True:
        step = _STEP.match(plain, at)
        if step is None:
            raise _not_a_list(body)
        first = last = int(step[1])
        at = step.end()
        if (dash := _RANGE.match(plain, at)) and (end := _STEP.match(plain, dash.end())):
            last = int(end[1])
            at = end.end()
        wrong.update(_existing(first, last, n_steps))
        if at == len(plain):
            return frozenset(wrong)
        separator = _SEPARATOR.match(plain, at)
        if separator is None:
            raise _not_a_list(body)
        at = separator.end()


def read_values(values: list[object], n_steps: int) -> frozenset[int]:
    """The steps that a JSON list names: numbers, or strings that name one step each.

    Raises:
        ValueError: an item is anything else, or not one of 0 to `n_steps` - 1.
    """
    wrong: set[int] = set()
    for value in values:
        if isinstance(value, str) and (step := _STEP.fullmatch(_plain(value))):
            value = int(step[1])
        if type(value) is not int:  # bool is a subclass of int
            raise ValueError(f"not a step: {str(value)[:80]!r}")
        wrong.update(_existing(value, value, n_steps))
    return frozenset(wrong)


def _existing(first: int, last: int, n_steps: int) -> range:
    if not 0 <= first <= last < n_steps:
        named = str(first) if first == last else f"{first}-{last}"
        raise ValueError(f"it names step {named}, but the steps are 0 to {n_steps - 1}")
    return range(first, last + 1)


def _without_bullets(plain: str) -> str:
    lines = [line.strip() for line in plain.splitlines() if line.strip()]
    lines = [_BULLET.sub("", line, count=1) if _BULLET.match(line) else line for line in lines]
    numbered = [_NUMBERED.match(line) for line in lines]
    if all(numbered) and [int(m[1]) for m in numbered if m] == list(range(1, len(lines) + 1)):
        lines = [line[m.end() :] for line, m in zip(lines, numbered, strict=True) if m]
    return "\n".join(lines)
