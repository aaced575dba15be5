"""Sampled tokens -> the thought, and what the judge wrote after it."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from capo_service.engine.thinking import ThoughtEnd


class Decoder(Protocol):
    """The judge's tokenizer."""

    @property
    def thought_end(self) -> ThoughtEnd:
        """How its thoughts are ended."""

    def decode(self, ids: Sequence[int]) -> str:
        """The text of sampled tokens."""


class Written(NamedTuple):
    """What a judge wrote: its thought, the tokens of that, and the text after it."""

    thought: str
    thought_tokens: int
    text: str


def split_thought(ids: Sequence[int], decoder: Decoder, budget: int) -> Written:
    """Split sampled tokens at the first end of a thought.

    Without an end all tokens are the thought; with budget 0 none are. Markers and the blanks around
    them belong to neither part.
    """
    if not budget:
        return Written("", 0, decoder.decode(ids))
    end = decoder.thought_end
    if end.ids:
        cut = list(ids).index(end.ids[0]) if end.ids[0] in ids else len(ids)
        return Written(
            decoder.decode(ids[:cut]).strip(), cut, decoder.decode(ids[cut + len(end.ids) :])
        )
    text = decoder.decode(ids)
    thought, _, rest = text.partition(end.marker)

    def characters(tokens: int) -> int:
        # An incomplete character at the end is decoded to one or more replacements.
        return len(decoder.decode(ids[:tokens]).rstrip("\ufffd"))

    # The most tokens whose text ends before the marker.
    cut = bisect_right(range(len(ids) + 1), len(thought), key=characters) - 1
    behind = end.text[len(end.text.rstrip()) :]
    return Written(thought.strip(), cut, rest.removeprefix(behind))
