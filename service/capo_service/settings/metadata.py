"""What the documentation says of a setting beyond its description."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class When:
    """When to change a setting: completes "Change it when ..."."""

    text: str
