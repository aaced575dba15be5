"""Lists of strings that may be given as one plain string."""

from __future__ import annotations

import json
from typing import Any


def as_list(given: Any) -> Any:
    """A plain string as a list of one; text that begins with `[` is JSON.

    Raises:
        ValueError: it begins with `[` and is not JSON.
    """
    if isinstance(given, int | float):  # --set reads digits as a number
        given = str(given)
    if not isinstance(given, str):
        return given
    if not given.lstrip().startswith("["):
        return [given] if given else []
    try:
        return json.loads(given)
    except ValueError:
        raise ValueError('write JSON, for example ["a", "b"], or one plain string') from None
