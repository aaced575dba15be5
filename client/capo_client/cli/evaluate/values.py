"""Values in labelled data, in the forms that occur: numbers as strings, null, NaN, blanks."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

_NOTHING = frozenset({"", "n/a", "na", "none", "null", "nan"})
_YES = frozenset({"correct", "right", "true", "yes", "1", "1.0"})
_NO = frozenset({"wrong", "incorrect", "false", "no", "0", "0.0"})


class LabelError(ValueError):
    """An entry cannot be judged.

    Args:
        reason: the kind of fault, by which entries are counted.
        detail: the fault in this entry.
    """

    def __init__(self, reason: str, detail: str | None = None) -> None:
        super().__init__(reason if detail is None else f"{reason} ({detail})")
        self.reason, self.detail = reason, detail


def as_object(value: object, what: str) -> Mapping[str, Any]:
    """A JSON object."""
    if not isinstance(value, dict):
        raise LabelError(f"{what} is not an object")
    return value


def as_list(entry: Mapping[str, Any], name: str) -> list[Any]:
    """A JSON array."""
    if not isinstance(value := entry.get(name), list):
        raise LabelError(f"{name} is not a list")
    return value


def as_text(entry: Mapping[str, Any], name: str) -> str:
    """A text that is not blank; a number becomes its digits."""
    value = entry.get(name)
    if isinstance(value, int | float) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str):
        raise LabelError(f"{name} is not a string")
    if not value.strip():
        raise LabelError(f"{name} is blank")
    return value


def as_texts(entry: Mapping[str, Any], name: str) -> tuple[str, ...]:
    """A list of texts, which may be blank; a number becomes its digits, and null is blank."""
    texts = []
    for value in as_list(entry, name):
        if value is not None and not isinstance(value, str | int | float):
            raise LabelError(f"{name} contains an item that is not a string")
        texts.append("" if value is None else str(value))
    return tuple(texts)


def as_index(entry: Mapping[str, Any], name: str) -> int | None:
    """A whole number, also as a float or a string; None for null and its other spellings.

    Raises:
        LabelError: it is neither.
    """
    value = entry.get(name)
    if is_nothing(value):
        return None
    index = index_or_none(value)
    if index is None:
        raise LabelError(f"{name} is not a whole number", repr(value))
    return index


def index_or_none(value: object) -> int | None:
    """A whole number, also as a float or a string; None for anything else."""
    if isinstance(value, bool):
        return None
    try:
        number = float(value)  # type: ignore[arg-type]  # raises if it is not a number
    except (TypeError, ValueError):
        return None
    return int(number) if number.is_integer() else None


def as_flag(value: object) -> bool | None:
    """Whether a label means right, in the words that data sets use; None for other words."""
    word = str(value).strip().lower()
    return True if word in _YES else False if word in _NO else None


def is_nothing(value: object) -> bool:
    """Null, or another spelling of it: "N/A", "None", "", NaN."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return True
    return isinstance(value, str) and value.strip().lower() in _NOTHING


def same_answer(answer: object, target: object) -> bool:
    """Whether two answers are equal except for case, blanks and the format of a number.

    True if one is missing.
    """
    if is_nothing(answer) or is_nothing(target):
        return True
    a, b = (" ".join(str(value).lower().rstrip(".").split()) for value in (answer, target))
    try:
        return a == b or float(a.replace(",", "")) == float(b.replace(",", ""))
    except ValueError:
        return False
