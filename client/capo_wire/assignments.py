"""`name=value` options of commands."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any


def parse_pairs(given: Iterable[str] | None, option: str) -> dict[str, Any]:
    """`name=value` pairs as a dict.

    A dash in a name is an underscore; a value is JSON where it parses as such, else text.

    Args:
        given: the option's values.
        option: its name, for errors.

    Raises:
        ValueError: a pair has no `=`.
    """
    pairs: dict[str, Any] = {}
    for pair in given or ():
        name, equals, value = (part.strip() for part in pair.partition("="))
        if not equals:
            raise ValueError(f"{option} {pair}: write NAME=VALUE")
        name = name.replace("-", "_")
        try:
            pairs[name] = json.loads(value)
        except ValueError:
            pairs[name] = value
    return pairs
