"""Cuts a response into turns, and turns into steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import capo_wire as wire
from capo_service.core import steps
from capo_service.core.alignment import Alignment
from capo_service.core.errors import InputError
from capo_service.core.steps import Span
from capo_service.core.turns import Turn, is_one_text, turns_by_mask, turns_by_observations


def _whole(text: str) -> list[Span]:
    return [(0, len(text))]


_SEGMENTERS: dict[wire.SegmentMethod, Callable[[str], list[Span]]] = {
    "blank_line": steps.blank_line,
    "newline": steps.newline,
    "sentence": steps.sentence,
    "turn": _whole,
    "turn_blank_line": steps.blank_line,
}


def turns_of(
    rollout: wire.Rollout, response: str, aligned: Alignment | None, observations: Sequence[Span]
) -> list[Turn]:
    """The turns of a response; one, if the policy wrote all of it.

    Args:
        rollout: the rollout, for its mask.
        response: its text.
        aligned: the positions of its tokens; None if there are none.
        observations: the spans that the policy did not write, where there are no tokens.

    Raises:
        InputError: an observation is not a span of the response, or the policy wrote nothing.
    """
    if rollout.response_mask is not None and aligned is not None:
        turns = turns_by_mask(aligned, rollout.response_mask)
    elif observations:
        turns = turns_by_observations(response, observations)
    else:
        turns = [Turn((0, len(response)), None if aligned is None else (0, len(aligned)))]
    if not any(response[start:end].strip() for start, end in (turn.span for turn in turns)):
        own = "the policy's part of the response" if len(turns) > 1 or observations else "response"
        raise InputError(f"{own} is empty or blank: there is no step to judge", field="response")
    return turns


def cut_turns(
    response: str,
    turns: Sequence[Turn],
    given: Sequence[Span] | None,
    segment: wire.Segment,
    most: int,
) -> list[list[Span]]:
    """The steps of each turn; those of a segmenter are merged to at most `most`, if possible.

    A turn has at least one step, so that there may be more of them than `most`.

    Args:
        response: the response.
        turns: its turns.
        given: the caller's own steps, in place of a segmenter's.
        segment: how to cut.
        most: maximum steps of the response (setting max_steps).

    Raises:
        InputError: the caller's steps are no steps of the turns, or the pattern is invalid.
    """
    if given is not None:
        return _given(response, turns, given)
    if segment.method == "given":
        raise InputError("segment method given needs the rollout's field steps", field="steps")
    is_plain = len(turns) == 1 and turns[0].span == (0, len(response))
    is_text = is_plain or is_one_text(response, turns)
    method = segment.method or ("blank_line" if is_text else "turn")
    by_turn = []
    for turn in turns:
        start, end = turn.span
        text = response if is_plain else response[start:end]
        if method == "regex":
            found = steps.by_pattern(text, segment.pattern or "", segment.cut)
        else:
            found = _SEGMENTERS[method](text)
        # A turn without text has a step too: its tokens need one.
        by_turn.append([(start + a, start + b) for a, b in found] or [turn.span])
    count = sum(map(len, by_turn))
    asked = segment.max_steps is not None or segment.min_characters is not None
    if not asked and count <= most:
        return by_turn
    most = min(segment.max_steps or most, most)
    shares = _shares([len(spans) for spans in by_turn], most)
    return [
        _merged(response, turn, spans, share, segment.min_characters)
        for turn, spans, share in zip(turns, by_turn, shares, strict=True)
    ]


def _merged(
    response: str, turn: Turn, spans: list[Span], most: int, min_characters: int | None
) -> list[Span]:
    if len(spans) == 1:
        return spans
    start, end = turn.span
    moved = [(a - start, b - start) for a, b in spans]
    joined = steps.merged(response[start:end], moved, most, min_characters)
    return [(a + start, b + start) for a, b in joined]


def _shares(counts: Sequence[int], most: int) -> list[int]:
    """The maximum steps of each turn: at least one, the rest in proportion to what it has."""
    total, spare = sum(counts) - len(counts), max(most - len(counts), 0)
    if total <= spare:
        return list(counts) if len(counts) > 1 else [most]
    return [1 + spare * (count - 1) // total for count in counts]


def _given(response: str, turns: Sequence[Turn], given: Sequence[Span]) -> list[list[Span]]:
    """The caller's steps by turn."""
    by_turn: list[list[Span]] = []
    first = 0
    for number, turn in enumerate(turns):
        start, end = turn.span
        is_last = number == len(turns) - 1
        after = first
        while after < len(given) and (is_last or given[after][0] < end):
            after += 1
        mine = given[first:after]
        if len(turns) > 1:
            for index, span in enumerate(mine, first):
                if not start <= span[0] < span[1] <= end:
                    raise InputError(
                        f"steps[{index}] = {list(span)} covers text that the policy did not write; "
                        f"turn {number} of the policy has characters {start} to {end}: give steps "
                        "within turns, or leave steps out",
                        field=f"steps[{index}]",
                    )
        by_turn.append(steps.given(response, mine, turn.span, first) or [turn.span])
        first = after
    return by_turn
