"""Trajectory -> turns: the runs of text that the policy wrote, between those that it did not.

Everything is exact to the token: each run of tokens with mask 1 is a turn, even one without text,
so that every token of the policy is in exactly one turn, and no other token is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise

from capo_service.core.alignment import Alignment, token_spans
from capo_service.core.observations import shortened
from capo_service.core.steps import Span, check_span
from capo_wire.special_text import content_end


@dataclass(frozen=True, slots=True)
class Turn:
    """A run of the policy's own text.

    `span`: its characters, which may be none if it has tokens.
    `tokens`: its tokens; None if no tokens were sent.
    """

    span: Span
    tokens: Span | None = None


@dataclass(frozen=True, slots=True)
class Trajectory:
    """What others wrote between the policy's turns.

    Attributes:
        turns: the texts of the policy's turns, without the end-of-turn tokens at their ends.
        turn_of: for each step, the number of its turn.
        observations: the character spans that the policy did not write.
        left_out: for each of them, how many of its characters are not shown.
        shown: by the number of the step before it, what is shown of it; -1: before the first.
    """

    turns: Sequence[str]
    turn_of: Sequence[int]
    observations: Sequence[Span]
    left_out: Sequence[int]
    shown: Mapping[int, str]


def trajectory(
    text: str, turns: Sequence[Turn], steps: Sequence[int], budget: int
) -> Trajectory | None:
    """What others wrote in a text; None if the policy wrote all of it.

    Args:
        text: the whole text.
        turns: the policy's turns.
        steps: the number of steps of each turn.
        budget: maximum tokens of an observation that is shown.
    """
    if is_one_text(text, turns):
        return None
    own = [text[start:end] for start, end in (turn.span for turn in turns)]
    turn_of = [number for number, count in enumerate(steps) for _ in range(count)]
    spans, left_out, shown = [], [], {}
    last = -1
    for (start, end), count in zip(between(text, turns), [*steps, 0], strict=True):
        if observed := text[start:end].strip():
            short, missing = shortened(observed, budget)
            spans.append((start, end))
            left_out.append(missing)
            shown[last] = short
        last += count
    return Trajectory([each[: content_end(each)] for each in own], turn_of, spans, left_out, shown)


def turns_by_mask(aligned: Alignment, mask: Sequence[int]) -> list[Turn]:
    """The turns of a response with tokens, in linear time.

    Of tokens that share a character, the first one's side has it. Text of no token between two
    tokens of one turn is the turn's; elsewhere it is not the policy's, except at the ends of a
    response that begins or ends with a turn.

    Args:
        aligned: the positions of the tokens.
        mask: for each token, whether the policy sampled it.
    """
    size, count = len(aligned.text), len(mask)
    found = []
    first = reached = 0
    for is_own, run in groupby(map(bool, mask)):
        end = first + len(list(run))
        last_character = max(aligned.ends[end - 1], reached)
        if is_own:
            start = max(aligned.starts[first], reached) if first else 0
            stop = last_character if end < count else size
            found.append(Turn((min(start, stop), stop), (first, end)))
        first, reached = end, last_character
    return found


def turns_by_observations(text: str, observations: Sequence[Span]) -> list[Turn]:
    """The turns of a response without tokens: what is not blank between the observations.

    Raises:
        InputError: a span is outside the text, or overlaps the one before.
    """
    reached = 0
    edges = [0]
    for index, (start, end) in enumerate(observations):
        check_span(text, (start, end), reached, f"observations[{index}]", "observation")
        reached = end
        edges += [start, end]
    edges.append(len(text))
    gaps = list(pairwise(edges))[::2]
    return [Turn((start, end)) for start, end in gaps if text[start:end].strip()]


def is_one_text(text: str, turns: Sequence[Turn]) -> bool:
    """Whether the policy wrote all that is not blank, in one turn."""
    return len(turns) == 1 and not any(
        text[start:end].strip() for start, end in between(text, turns)
    )


def between(text: str, turns: Sequence[Turn]) -> list[Span]:
    """The spans of a text before, between and after its turns; some are empty."""
    edges = [0, *(edge for turn in turns for edge in turn.span), len(text)]
    return list(pairwise(edges))[::2]


def tokens_of_steps(
    aligned: Alignment, turns: Sequence[Turn], steps: Sequence[Sequence[Span]]
) -> list[Span]:
    """The token span of each step, turn by turn; every token of a turn is in exactly one.

    Args:
        aligned: the positions of all tokens.
        turns: the turns, with tokens.
        steps: the character spans of each turn's steps.
    """
    if len(turns) == 1 and turns[0].tokens == (0, len(aligned)):
        return token_spans(aligned, steps[0])
    found = []
    for turn, spans in zip(turns, steps, strict=True):
        first, end = turn.tokens or (0, 0)
        part = Alignment(aligned.text, aligned.starts[first:end], aligned.ends[first:end])
        found += [(first + start, first + stop) for start, stop in token_spans(part, spans)]
    return found
