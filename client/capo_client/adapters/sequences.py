"""Several token sequences of one trajectory as one, so that a judge sees all of its turns in order.

A framework has several sequences for one trajectory where a later turn was sampled from a context
that does not extend the earlier one: context compaction, sub-agents, a chat template that leaves
out thoughts of earlier turns, or training step by step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class TokenSequence:
    """What the policy saw, and what followed.

    Attributes:
        prompt: the ids of the context.
        response: T ids.
        mask: T flags, 0 for ids of `response` that a tool or the environment wrote.
    """

    prompt: Sequence[int]
    response: Sequence[int]
    mask: Sequence[int]


@dataclass(slots=True)
class Trajectory:
    """The responses of a trajectory's sequences, and between them what is new in their contexts.

    Attributes:
        ids: the T token ids.
        mask: T flags, 0 for ids that the policy did not sample.
        spans: the ids of each sequence's response.
    """

    ids: list[int] = field(default_factory=list)
    mask: list[int] = field(default_factory=list)
    spans: list[tuple[int, int]] = field(default_factory=list)

    def split(self, rewards: Sequence[float]) -> list[list[float]]:
        """Rewards of the T ids -> those of each sequence's response."""
        return [list(rewards[start:end]) for start, end in self.spans]


def join(sequences: Sequence[TokenSequence]) -> Trajectory:
    """One trajectory of the sequences, which are in the order in which they were sampled.

    The context of the first is left out: it is the question.

    Raises:
        ValueError: a mask's length differs from that of its response.
    """
    joined = Trajectory()
    earlier: list[list[int]] = []
    for sequence in sequences:
        if len(sequence.mask) != len(sequence.response):
            raise ValueError(
                f"the mask has {len(sequence.mask)} flags for {len(sequence.response)} token ids"
            )
        context = list(sequence.prompt)
        if earlier:
            new = new_context(context, earlier)
            joined.ids += new
            joined.mask += [0] * len(new)
        start = len(joined.ids)
        joined.ids += sequence.response
        joined.mask += [int(flag) for flag in sequence.mask]
        joined.spans.append((start, len(joined.ids)))
        earlier.append([*context, *sequence.response])
    return joined


def new_context(context: list[int], earlier: Sequence[list[int]]) -> list[int]:
    """The ids of a context that follow what it has in common with an earlier sequence.

    That is the last one, or, if the context does not extend it, the one that it extends furthest.
    Where the context goes on with the end of that sequence, as a chat template without earlier
    thoughts makes it do, that end is left out too.
    """
    base, common = earlier[-1], _common_prefix(context, earlier[-1])
    if common < len(base):
        for other in earlier[:-1]:
            length = _common_prefix(context, other)
            if length > common:
                base, common = other, length
    rest = context[common:]
    return rest[_overlap(base[common:], rest) :]


def _common_prefix(one: list[int], other: list[int]) -> int:
    """The number of equal ids at the start; lists are compared by slices, which is fast."""
    low, high = 0, min(len(one), len(other))
    if one[:high] == other[:high]:
        return high
    while low < high - 1:  # the first `low` are equal, the first `high` are not
        middle = (low + high) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle
    return low


def _overlap(end: list[int], start: list[int]) -> int:
    """The length of the longest end of `end` that `start` starts with, in linear time (KMP)."""
    if not start:
        return 0
    borders = [0] * len(start)
    matched = 0
    for position in range(1, len(start)):
        while matched and start[position] != start[matched]:
            matched = borders[matched - 1]
        matched += start[position] == start[matched]
        borders[position] = matched
    matched = 0
    for token in end:
        while matched and (matched == len(start) or token != start[matched]):
            matched = borders[matched - 1]
        matched += token == start[matched]
    return matched
