"""Pydantic's errors as one sentence, in the same form in client and service."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError


def field_path(location: Sequence[int | str]) -> str:
    """The path of an error in the data: ("rollouts", 0, "steps") -> `rollouts[0].steps`."""
    path = ""
    for part in location:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else str(part)
    return path


def message_of(item: Mapping[str, Any]) -> str:
    """The message of one item of `ValidationError.errors()`."""
    if item["type"] == "extra_forbidden":
        return "unknown field"
    return str(item["msg"]).removeprefix("Value error, ")


def first_error(error: ValidationError) -> tuple[str | None, str]:
    """The field of the first error, and a sentence that names it and counts the other errors.

    Returns:
        The field is None where the error is about the data as a whole.
    """
    items = error.errors(include_url=False, include_context=False, include_input=False)
    field, message = field_path(items[0]["loc"]), message_of(items[0])
    sentence = f"{field}: {message}" if field else message
    more = f" (and {len(items) - 1} more)" if len(items) > 1 else ""
    return field or None, sentence + more
