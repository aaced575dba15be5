"""The ways to ask a judge that one run compares: styles and thinking budgets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any


class VariantError(Exception):
    """An option cannot be parsed; the message says what to write."""


@dataclass(frozen=True, slots=True)
class Variant:
    """One way to ask the judge; None: as the service does by default.

    Attributes:
        style: length of a critique's analysis.
        thinking_tokens: the thinking budget.
    """

    style: str | None = None
    thinking_tokens: int | None = None

    @property
    def name(self) -> str:
        """The name of its folder; empty if nothing is chosen."""
        thinking = None if self.thinking_tokens is None else f"thinking-{self.thinking_tokens}"
        return "-".join(part for part in (self.style, thinking) if part)

    def voting(self) -> dict[str, Any]:
        """Its fields of `voting`."""
        fields = {"critique_style": self.style, "thinking_tokens": self.thinking_tokens}
        return {name: value for name, value in fields.items() if value is not None}


def variants(styles: str | None, budgets: str | None) -> list[Variant]:
    """Every combination of the options' values, which are separated by commas.

    Raises:
        VariantError: a value is malformed.
    """
    return [
        Variant(style, budget)
        for style, budget in product(_listed("--critique-style", styles), _numbers(budgets))
    ]


def _numbers(text: str | None) -> Sequence[int | None]:
    numbers: list[int | None] = []
    for value in _listed("--thinking-tokens", text):
        if value is not None and not (value.isascii() and value.isdigit()):
            raise VariantError(
                f"--thinking-tokens {text}: write whole numbers, separated by commas, such as "
                "0,1024,4096"
            )
        numbers.append(None if value is None else int(value))
    return list(dict.fromkeys(numbers))


def _listed(option: str, text: str | None) -> Sequence[str | None]:
    if text is None:
        return [None]
    values = [value.strip() for value in text.split(",")]
    if not all(values):
        raise VariantError(f"{option} {text}: a value is blank")
    return list(dict.fromkeys(values))
