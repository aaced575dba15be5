"""A constraint that shows in a few tokens whether a server applies it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from capo_service.engine.base import Constraint, ConstraintForm

WITNESS_TOKENS = 24  # enough to show it, in any tokenizer that knows ASCII
_FIRST, _SECOND = "QZ7", "QZ9"  # what no judge writes of its own accord
_GAP_TOKENS = 2
_LONGEST_GAP = 2 * 40  # characters that so few tokens may have
_ROOT = re.compile(r"^root ::=", re.MULTILINE)
_STRUCTURE = re.compile(rf"{_FIRST}[^Q]{{0,{_LONGEST_GAP}}}{_SECOND}")
_OBJECT = re.compile(rf'\s*\{{\s*(?:"{_FIRST}"|\Z)')


@dataclass(frozen=True, slots=True)
class Witnessed:
    """A constraint of critiques behind a text that the judge would not write by itself.

    The server compiles the constraint of real critiques; the first tokens prove that it applies it,
    and under a structural tag, that it bounds texts in tokens.

    Args:
        inner: a constraint of real critiques; None: the text alone.
    """

    inner: Constraint | None

    def structure(self) -> list[dict[str, Any]]:
        """The text, a gap that is bounded in tokens, a second text, and the real elements."""
        return [
            {"type": "const_string", "value": _FIRST},
            {"type": "any_text", "max_tokens": _GAP_TOKENS, "excludes": ["Q"]},
            {"type": "const_string", "value": _SECOND},
            *(self.inner.structure() if self.inner else []),
        ]

    def grammar(self) -> str | None:
        """The text, then the real grammar; None if there is no such form."""
        if self.inner is None:
            return f'root ::= "{_FIRST}"'
        real = self.inner.grammar()
        return real and _ROOT.sub(f'root ::= "{_FIRST}" critique\ncritique ::=', real, count=1)

    def json_schema(self) -> dict[str, Any] | None:
        """An object whose one member is the real one; None if there is no such form."""
        real = self.inner.json_schema() if self.inner else {"type": "boolean"}
        return real and {
            "type": "object",
            "properties": {_FIRST: real},
            "required": [_FIRST],
            "additionalProperties": False,
        }

    def has(self, form: ConstraintForm) -> bool:
        """Whether critiques can be constrained in this form."""
        if form == "grammar":
            return self.grammar() is not None
        return form == "structural_tag" or self.json_schema() is not None

    def shows(self, text: str, form: ConstraintForm) -> bool:
        """Whether a text of the judge proves that the constraint was applied."""
        if form == "structural_tag":
            return _STRUCTURE.match(text) is not None
        return text.startswith(_FIRST) if form == "grammar" else _OBJECT.match(text) is not None
