"""The judge's thought: its markers, and the structural tag that bounds it in tokens.

A thought is ended by a token where the judge's vocabulary has one for it, else by a text. Under the
structural tag (xgrammar) a thought takes at most its budget; then its end and the verdict follow,
whatever the judge would have written.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from capo_service.engine.base import Constraint


@dataclass(frozen=True, slots=True)
class ThinkingMarkers:
    """The texts around a judge's thought.

    Attributes:
        opening: starts a thought.
        closing: ends it; the verdict follows at once.
        skipping: what stands in place of a thought, for judges that always announce their answer.
    """

    opening: str
    closing: str
    skipping: str = ""

    @property
    def texts(self) -> tuple[str, str]:
        """What opens and what closes a thought."""
        return self.opening, self.closing


# For judges without markers of their own. It is also what most judges that think were trained on.
DEFAULT_MARKERS = ThinkingMarkers("<think>\n", "</think>\n\n")
# Of model families, the more specific first.
KNOWN_MARKERS = (
    ThinkingMarkers(
        "<|channel|>analysis<|message|>",
        "<|end|><|start|>assistant<|channel|>final<|message|>",
        skipping="<|channel|>final<|message|>",
    ),
    ThinkingMarkers("<seed:think>", "</seed:think>"),
    ThinkingMarkers("[THINK]", "[/THINK]"),
    ThinkingMarkers("◁think▷", "◁/think▷"),
    ThinkingMarkers("<|START_THINKING|>", "<|END_THINKING|>"),
    ThinkingMarkers("<longcat_think>\n", "</longcat_think>\n"),
    DEFAULT_MARKERS,
)


@dataclass(frozen=True, slots=True)
class ThoughtEnd:
    """How a thought is ended.

    Attributes:
        text: the closing marker.
        ids: its tokens, if the first of them is one that ends thoughts; else empty, and the thought
            is ended by the text.
        forbidden: ids that must not occur inside a thought, for a thought that is ended by a token.
    """

    text: str
    ids: tuple[int, ...] = ()
    forbidden: tuple[int, ...] = ()

    @property
    def max_tokens(self) -> int:
        """Tokens that suffice for the closing marker: a token holds at least one byte of a text."""
        return len(self.ids) or len(self.text.encode())

    @property
    def marker(self) -> str:
        """The closing marker without the blanks around it."""
        return self.text.strip()

    def elements(self, budget: int) -> list[dict[str, Any]]:
        """A thought of at most `budget` tokens and its end, as elements of a structural tag."""
        if self.ids:
            first, *others = ({"type": "token", "token": index} for index in self.ids)
            excluded = list(self.forbidden)
            inside = {"type": "any_tokens", "max_tokens": budget, "exclude_tokens": excluded}
            return [{"type": "tag", "begin": "", "content": inside, "end": first}, *others]
        inside = {"type": "any_text", "max_tokens": budget}
        tag = {"type": "tag", "begin": "", "content": inside, "end": self.marker}
        behind = self.text[len(self.text.rstrip()) :]
        return [tag, {"type": "const_string", "value": behind}] if behind else [tag]


@lru_cache(maxsize=1024)
def structural_tag(end: ThoughtEnd | None, budget: int, constraint: Constraint) -> str:
    """The structural tag of a critique, as JSON.

    Args:
        end: how its thought is ended; None: there is no thought.
        budget: maximum tokens of the thought.
        constraint: what follows; hashable.
    """
    elements = end.elements(budget) if end else []
    elements += constraint.structure()
    return json.dumps(
        {"type": "structural_tag", "format": {"type": "sequence", "elements": elements}},
        ensure_ascii=False,
        separators=(",", ":"),
    )


def find_markers(after: str, is_token: Sequence[str] | frozenset[str]) -> ThinkingMarkers:
    """The markers of a judge.

    Args:
        after: what its chat template writes where the judge is to think.
        is_token: texts that its vocabulary has as single tokens.
    """
    opened = after.rstrip()
    for markers in KNOWN_MARKERS:
        if opened.endswith(markers.opening.strip()):
            return markers
    for markers in KNOWN_MARKERS[:-1]:
        if all(token in is_token for token in _control_tokens(markers.closing)):
            return markers
    return DEFAULT_MARKERS


def _control_tokens(closing: str) -> list[str]:
    if "<|channel|>" in closing:
        return ["<|channel|>", "<|message|>", "<|end|>"]
    return [closing.strip()]


def opened_thoughts(after: str, markers: ThinkingMarkers) -> int:
    """How many thoughts the end of a chat template opens and leaves open."""
    rest = after.rpartition(markers.closing.strip())[2]
    return rest.count(markers.opening.strip())
