"""A data set's label -> the field `reference`, by the same rules in adapters and routes."""

from __future__ import annotations

import numbers
from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Any


def reference_of(label: Any) -> str | None:
    """The reference that a label stands for.

    Args:
        label: text, a number (of Python, numpy or torch), a list of them, or None. A number is
            written in full, without an exponent and without a fraction that is zero: 1e-7 is
            `0.0000001`, 12.0 is `12`. The items of a list are separated by commas: [6, -2] is
            `6, -2`; an item that is a list itself is written in parentheses.

    Returns:
        The reference; None for None, NaN, blank text and an empty list.

    Raises:
        ValueError: the label has another type, or an item of a list is empty.
    """
    if isinstance(label, str):
        return label if label.strip() else None
    if label is None or isinstance(label, bool):
        return None if label is None else str(label)
    if isinstance(label, numbers.Real | Decimal):
        return _number(label)
    if getattr(label, "shape", None) == ():  # an array or tensor that holds one value
        return reference_of(label.item())
    if isinstance(label, bytes | Mapping | set | frozenset) or not _is_list(label):
        raise ValueError(
            f"the reference is {_shown(label)}, of type {type(label).__name__}; it must be text, "
            "a number or a list of them"
        )
    items = list(label)
    texts = [text for text in map(reference_of, items) if text is not None]
    if len(texts) < len(items):
        raise ValueError(f"the reference is a list with an item that is empty: {_shown(label)}")
    if len(items) > 1:
        pairs = zip(items, texts, strict=True)
        texts = [f"({text})" if _is_list(item) else text for item, text in pairs]
    return ", ".join(texts) or None


def _is_list(label: Any) -> bool:
    listed = isinstance(label, Iterable) and not isinstance(label, str)
    return listed and getattr(label, "shape", None) != ()


def _number(value: numbers.Real | Decimal) -> str | None:
    if isinstance(value, numbers.Rational):
        return str(value)
    exact = Decimal(str(value))  # the shortest digits that are read as this number
    if exact.is_nan():
        return None
    if exact.is_infinite():
        return "-\\infty" if exact < 0 else "\\infty"
    if not exact:
        return "0"
    text = format(exact, "f")
    return text.rstrip("0").rstrip(".") if "." in text else text


def _shown(label: Any) -> str:
    text = repr(label)
    return text if len(text) <= 80 else f"{text[:77]}..."
