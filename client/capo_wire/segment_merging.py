"""Merges short neighbouring steps, where a response has more of them than a judge should see.

The rule: while a step is shorter than `min_characters`, the shortest one is joined to the shorter
of its two neighbours. Then, while there are more than `max_steps` steps, the two neighbours that
are shortest together are joined. (Of equals the first; lengths are without the white space around.)

So no joined step is longer than about twice the mean. A thought and the answer after it are never
joined, even if that leaves one step more than `max_steps`, or one shorter than `min_characters`;
a step that holds the end of the thought is cut there. Code fences and display formulas are kept
whole (see `text_blocks`). It takes n log n time for n steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from heapq import heapify, heappop, heappush
from itertools import pairwise

from capo_wire.segmentation import Span, tile
from capo_wire.special_text import thought_boundaries
from capo_wire.text_blocks import blocks, without


def merged(
    text: str,
    spans: Sequence[Span],
    max_steps: int | None = None,
    min_characters: int | None = None,
) -> list[Span]:
    """The steps `spans` of a text, merged by the rule above; without limits, the steps themselves.

    Merging what was merged with the same limits changes nothing.

    Args:
        text: the response.
        spans: its steps, as the functions of `segmentation` return them.
        max_steps: there are at most so many steps, or two (a thought and an answer).
        min_characters: no step is shorter, unless its thought or answer as a whole is.
    """
    if not spans or (max_steps is None and min_characters is None):
        return list(spans)
    sections = _sections(text, max_steps)
    kept = [
        (start + block_start, start + block_end)
        for start, end in sections
        for block_start, block_end in blocks(text[start:end])
    ]
    cuts = {start for start, _ in spans[1:]} | {start for start, _ in sections[1:]}
    pieces = tile(text, without(sorted(cuts), kept))
    chain = _Chain(text, pieces, {start for start, _ in sections})
    if min_characters is not None:
        chain.lengthen(min_characters)
    if max_steps is not None:
        chain.shorten(max_steps)
    return chain.spans()


def _sections(text: str, max_steps: int | None) -> list[Span]:
    """The thoughts and the texts outside them. If they exceed `max_steps`, only the last counts."""
    boundaries = thought_boundaries(text)
    if max_steps is not None and len(boundaries) >= max_steps:
        boundaries = boundaries[-1:]
    return list(pairwise([0, *boundaries, len(text)]))


class _Chain:
    """Pieces in order, each joined to its neighbours at any time.

    A piece is known by its position among the first pieces. `_next` and `_previous` are -1 where a
    piece must not be joined: at the ends of a section.
    """

    def __init__(self, text: str, pieces: Sequence[Span], section_starts: set[int]) -> None:
        count = len(pieces)
        self._starts = [start for start, _ in pieces]
        self._ends = [end for _, end in pieces]
        # Where the text of a piece begins and ends, without the white space around it.
        bodies = [(text[start:end], start) for start, end in pieces]
        self._first = [start + len(body) - len(body.lstrip()) for body, start in bodies]
        self._last = [start + len(body.rstrip()) for body, start in bodies]
        joined = [start not in section_starts for start in self._starts] + [False]
        self._previous = [at - 1 if joined[at] else -1 for at in range(count)]
        self._next = [at + 1 if joined[at + 1] else -1 for at in range(count)]
        self._is_there = [True] * count
        self._count = count

    def spans(self) -> list[Span]:
        """The pieces as they are now."""
        ends = self._ends
        return [(s, ends[at]) for at, s in enumerate(self._starts) if self._is_there[at]]

    def lengthen(self, least: int) -> None:
        """Join pieces that are shorter than `least`, the shortest first."""
        short = [(self._length(at, at), at) for at in range(self._count)]
        short = [entry for entry in short if entry[0] < least]
        heapify(short)
        while short:
            length, at = heappop(short)
            if not self._is_there[at] or length != self._length(at, at):
                continue  # it was joined since
            neighbours = [each for each in (self._previous[at], self._next[at]) if each >= 0]
            if not neighbours:
                continue
            other = min(neighbours, key=lambda each: self._length(each, each))
            left, right = min(at, other), max(at, other)
            self._join(left, right)
            if (length := self._length(left, left)) < least:
                heappush(short, (length, left))

    def shorten(self, most: int) -> None:
        """Join the pairs that are shortest together, until there are at most `most` pieces."""
        if self._count <= most:
            return
        pairs = [
            (self._length(left, right), left, right)
            for left, right in enumerate(self._next)
            if right >= 0 and self._is_there[left]
        ]
        heapify(pairs)
        while self._count > most and pairs:
            length, left, right = heappop(pairs)
            is_pair = self._is_there[left] and self._next[left] == right
            if not is_pair or length != self._length(left, right):
                continue  # one of the two was joined since
            self._join(left, right)
            for pair in ((self._previous[left], left), (left, self._next[left])):
                if -1 not in pair:
                    heappush(pairs, (self._length(*pair), *pair))

    def _length(self, left: int, right: int) -> int:
        """The length of neighbours together; of one piece if they are the same."""
        return self._last[right] - self._first[left]

    def _join(self, left: int, right: int) -> None:
        self._ends[left], self._last[left] = self._ends[right], self._last[right]
        self._next[left] = after = self._next[right]
        if after >= 0:
            self._previous[after] = left
        self._is_there[right] = False
        self._count -= 1
