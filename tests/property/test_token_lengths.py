"""Lengths of tokens say what their offsets say, and clients make the token rewards themselves."""

from __future__ import annotations

from itertools import accumulate, pairwise
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import capo_wire as wire
from capo_client.results import with_token_rewards
from capo_service.core import rewards, steps
from capo_service.core.alignment import align, from_lengths, from_offsets, token_spans
from capo_service.pipeline import assemble
from capo_wire.token_offsets import decode_with_offsets, offsets_of, token_lengths
from kit import KINDS, table, tokenizer
from property.test_alignment import TEXTS, ids_of

Span = tuple[int, int]


def cuts_of(text: str) -> st.SearchStrategy[list[Span]]:
    """Steps that may be cut anywhere, also inside of tokens and of runs of blanks."""
    places = st.lists(st.integers(0, len(text)), max_size=5)
    return places.map(lambda cuts: list(pairwise(sorted({0, *cuts, len(text)}))))


@st.composite
def tokens_of_text(draw: st.DrawFn) -> tuple[str, list[Span]]:
    """A text and tokens that cover it, some without text and some that share characters."""
    text = draw(TEXTS)
    spans: list[Span] = []
    place = 0
    while place < len(text):
        spans += [(place, place)] * draw(st.integers(0, 2))
        end = min(place + draw(st.integers(1, 4)), len(text))
        spans += [(place, end)] * draw(st.integers(1, 3))
        place = end
    return text, spans + [(place, place)] * draw(st.integers(0, 2))


@settings(max_examples=1000, deadline=None)
@given(data=st.data(), tokens=tokens_of_text())
def test_lengths_give_every_step_the_tokens_that_offsets_give_it(
    data: st.DataObject, tokens: tuple[str, list[Span]]
) -> None:
    text, spans = tokens
    lengths = token_lengths(spans, len(text))
    assert lengths is not None and len(lengths) == len(spans)
    for cuts in (data.draw(cuts_of(text)), steps.newline(text), steps.sentence(text)):
        by_offsets = token_spans(from_offsets(spans, text), cuts)
        assert token_spans(from_lengths(lengths, text), cuts) == by_offsets
        assert token_spans(from_offsets(offsets_of(lengths), text), cuts) == by_offsets


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_what_the_client_computes_for_any_ids_has_lengths(kind: str, data: st.DataObject) -> None:
    text, spans = decode_with_offsets(tokenizer(kind), data.draw(ids_of(kind)))
    lengths = token_lengths(spans, len(text))
    assert lengths is not None
    cuts = steps.newline(text)
    assert token_spans(from_lengths(lengths, text), cuts) == token_spans(
        from_offsets(spans, text), cuts
    )


ANY_SPANS = st.lists(
    st.tuples(st.integers(-1, 12), st.integers(-1, 12)) | st.sampled_from([(0, 3), (3, 5), (3, 5)]),
    max_size=6,
)


@settings(max_examples=1000, deadline=None)
@given(spans=ANY_SPANS, size=st.integers(0, 12))
def test_spans_that_lengths_cannot_say_have_none(spans: list[Span], size: int) -> None:
    lengths = token_lengths(spans, size)
    if lengths is None:
        return
    assert sum(lengths) == size and min(lengths, default=0) >= 0
    ends = accumulate(lengths)
    for (start, end), length, place in zip(spans, lengths, ends, strict=True):
        assert start >= 0 and (length == 0 or (start, end) == (place - length, place))


@pytest.mark.parametrize("scheme", get_args(wire.RewardScheme))
@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_clients_make_the_token_rewards_of_the_service(
    kind: str, scheme: wire.RewardScheme, data: st.DataObject
) -> None:
    aligned = align(table(kind), data.draw(ids_of(kind)))
    spans = steps.newline(aligned.text) or [(0, len(aligned.text))]
    owned = token_spans(aligned, spans)
    weight = st.floats(-1e6, 1e6)
    by_step = rewards.step_rewards(
        scheme,
        data.draw(st.lists(st.floats(0, 1), min_size=len(spans), max_size=len(spans))),
        data.draw(st.floats(0, 1)),
        data.draw(weight),
        data.draw(weight),
        data.draw(st.lists(weight, min_size=len(spans), max_size=len(spans))),
    )
    votes = wire.Votes(wrong=0, valid=1, asked=1)
    result = wire.Credited(
        id="r",
        outcome=None,
        steps=[
            wire.Step(
                index=i,
                span=span,
                token_span=tokens,
                wrong=False,
                penalty=0.0,
                votes=votes,
                reward=by_step[i],
            )
            for i, (span, tokens) in enumerate(zip(spans, owned, strict=True))
        ],
        usage=wire.Usage(),
    )
    served = assemble.with_token_rewards(result, len(aligned))
    assert served.token_rewards == rewards.token_rewards(by_step, owned, len(aligned))
    assert len(served.token_rewards) == len(aligned)
    # Exactly, also after their way as JSON.
    received = wire.Credited.model_validate_json(result.model_dump_json())
    sent = wire.Credited.model_validate_json(served.model_dump_json())
    assert with_token_rewards(received).token_rewards == sent.token_rewards == served.token_rewards
    assert with_token_rewards(sent) == sent
