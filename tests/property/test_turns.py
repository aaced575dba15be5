"""Trajectories are exact to the token: every token of the policy has one step, no other has one."""

from __future__ import annotations

from itertools import groupby, pairwise
from typing import get_args

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import capo_wire as wire
from capo_client.results import with_token_rewards
from capo_service.core.alignment import Alignment, align, from_lengths, from_offsets, token_spans
from capo_service.core.errors import InputError
from capo_service.core.observations import shortened
from capo_service.core.rewards import token_rewards
from capo_service.core.turns import (
    between,
    tokens_of_steps,
    turns_by_observations,
)
from capo_service.pipeline.cutting import cut_turns, turns_of
from capo_wire.token_offsets import token_lengths
from kit import KINDS, table, tokenizer
from property.test_alignment import TEXTS, ids_of
from property.test_token_lengths import tokens_of_text

METHODS = [method for method in get_args(wire.SegmentMethod) if method != "given"]


def segments() -> st.SearchStrategy[wire.Segment]:
    return st.builds(
        lambda method, most, least: wire.Segment(
            method=method,
            pattern="[a-e]" if method == "regex" else None,
            max_steps=most,
            min_characters=least,
        ),
        st.none() | st.sampled_from(METHODS),
        st.none() | st.integers(1, 5),
        st.none() | st.integers(1, 9),
    )


def check(aligned: Alignment, mask: list[int], segment: wire.Segment) -> None:
    rollout = wire.Rollout.model_construct(response_mask=mask)
    try:
        turns = turns_of(rollout, aligned.text, aligned, ())
    except InputError as error:
        assert "blank" in error.detail
        return
    runs = [(own, len(list(run))) for own, run in groupby(map(bool, mask))]
    assert len(turns) == sum(own for own, _ in runs)
    by_turn = cut_turns(aligned.text, turns, None, segment, 400)
    assert all(by_turn)
    spans = [span for each in by_turn for span in each]
    assert all(a[1] <= b[0] for a, b in pairwise(spans))
    found = tokens_of_steps(aligned, turns, by_turn)
    owners = [
        [step for step, (start, end) in enumerate(found) if start <= token < end]
        for token in range(len(mask))
    ]
    assert [len(each) for each in owners] == mask
    # Text between turns and the turns themselves are the whole text.
    others = between(aligned.text, turns)
    pieces = sorted([*others, *(turn.span for turn in turns)])
    assert "".join(aligned.text[a:b] for a, b in pieces) == aligned.text
    # A turn's tokens lie in its text, but for those that share a character with others.
    for turn in turns:
        first, end = turn.tokens or (0, 0)
        for token in range(first, end):
            start, stop = aligned.starts[token], aligned.ends[token]
            inside = turn.span[0] <= start and stop <= turn.span[1]
            shares = token and start < max(aligned.ends[:first], default=0)
            assert inside or shares, (token, turn, start, stop)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_masks_on_any_ids(kind: str, data: st.DataObject) -> None:
    ids = data.draw(ids_of(kind))
    mask = data.draw(st.lists(st.integers(0, 1), min_size=len(ids), max_size=len(ids)))
    assume(any(mask))
    text = tokenizer(kind).decode(ids, skip_special_tokens=not data.draw(st.booleans()))
    check(align(table(kind), ids, text), mask, data.draw(segments()))


@settings(max_examples=500, deadline=None)
@given(data=st.data(), tokens=tokens_of_text())
def test_masks_on_any_offsets_and_lengths(
    data: st.DataObject, tokens: tuple[str, list[tuple[int, int]]]
) -> None:
    text, spans = tokens
    mask = data.draw(st.lists(st.integers(0, 1), min_size=len(spans), max_size=len(spans)))
    assume(any(mask))
    segment = data.draw(segments())
    check(from_offsets(spans, text), mask, segment)
    lengths = token_lengths(spans, len(text))
    assert lengths is not None
    check(from_lengths(lengths, text), mask, segment)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_a_mask_of_ones_changes_nothing(kind: str, data: st.DataObject) -> None:
    ids = data.draw(ids_of(kind))
    aligned, segment = align(table(kind), ids), data.draw(segments())
    assume(aligned.text.strip())
    plain = turns_of(wire.Rollout.model_construct(response_mask=None), aligned.text, aligned, ())
    masked = wire.Rollout.model_construct(response_mask=[1] * len(ids))
    assert turns_of(masked, aligned.text, aligned, ()) == plain
    by_turn = cut_turns(aligned.text, plain, None, segment, 400)
    assert tokens_of_steps(aligned, plain, by_turn) == token_spans(aligned, by_turn[0])


@settings(max_examples=500, deadline=None)
@given(text=TEXTS, data=st.data())
def test_observations_leave_the_rest_to_the_policy(text: str, data: st.DataObject) -> None:
    edges = sorted(data.draw(st.sets(st.integers(0, len(text)), max_size=8)))
    spans = list(pairwise(edges))[:: data.draw(st.sampled_from([1, 2]))]
    turns = turns_by_observations(text, spans)
    observed = {place for start, end in spans for place in range(start, end)}
    own = {place for turn in turns for place in range(*turn.span)}
    assert not own & observed
    blank = set(range(len(text))) - own - observed
    assert not "".join(text[place] for place in sorted(blank)).strip()


@pytest.mark.parametrize("odd", [(0, 4), (3, 3), (-1, 1), (2, 1), (0, 2)])
def test_observations_outside_the_text_or_backwards_are_refused(odd: tuple[int, int]) -> None:
    with pytest.raises(InputError) as caught:
        turns_by_observations("abc", [(0, 1), odd])
    assert caught.value.field == "observations[1]"


@settings(max_examples=300, deadline=None)
@given(text=st.text(max_size=300), tokens=st.integers(16, 40))
def test_a_long_observation_is_shown_by_its_ends(text: str, tokens: int) -> None:
    shown, left_out = shortened(text, tokens)
    if left_out == 0:
        assert shown == text
        return
    head, mark, tail = shown.partition(f"\n[... {left_out:,} characters left out ...]\n")
    assert mark and text.startswith(head) and text.endswith(tail)
    assert len(head) + len(tail) + left_out == len(text)
    size = len((head + tail).encode("utf-8", "surrogatepass"))
    assert 3 * tokens - 8 < size <= 3 * tokens  # at most a character is lost at each cut


def test_the_client_and_the_service_give_the_same_rewards() -> None:
    rewards, owned = [1.0, -1.0], [(1, 3), (5, 6)]
    mask = [0, 1, 1, 0, 0, 1, 0]
    votes = wire.Votes(wrong=0, valid=1, asked=1)
    made = [
        wire.Step(
            index=i,
            span=(i, i + 1),
            token_span=span,
            wrong=False,
            penalty=0.0,
            votes=votes,
            reward=rewards[i],
            turn=i,
        )
        for i, span in enumerate(owned)
    ]
    result = wire.Credited(id="0", outcome=None, steps=made, usage=wire.Usage())
    expected = [0.0, 1.0, 1.0, 0.0, 0.0, -1.0, 0.0]
    assert token_rewards(rewards, owned, len(mask)) == expected
    assert with_token_rewards(result, mask).token_rewards == expected
    for wrong in ([1, *mask[1:]], [*mask[:-1], 1], [0, 1, 1, 0, 1, 1, 0]):
        with pytest.raises(ValueError, match="is it a capo service"):
            with_token_rewards(result, wrong)
