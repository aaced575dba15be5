"""Alignment is exact for the ids that were sent, for every kind of tokenizer."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from capo_service.core import steps
from capo_service.core.alignment import align, from_offsets, token_spans
from capo_service.core.errors import InputError
from kit import CORPUS, KINDS, owner_by_definition, spread, table, tokenizer

PIECES = st.sampled_from(
    ["So ", "12", "\n\n", "\n", " ", "é", "因此", "🏃‍♀️", "½", ". ", "<0x41>", "<think>", "Then x",
     "\u3000", "\t", "#### 7", "\\frac{1}{2}", "…", "▁", "��", "##s"]
)  # fmt: skip
TEXTS = st.lists(PIECES | st.text(max_size=4), max_size=25).map("".join)
EXACT = [kind for kind in KINDS if kind not in ("bert", "t5")]  # those that lose nothing


def ids_of(kind: str) -> st.SearchStrategy[list[int]]:
    return st.lists(st.integers(0, tokenizer(kind).get_vocab_size() - 1), max_size=40)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_any_ids_decode_as_the_tokenizer_decodes_them(kind: str, data: st.DataObject) -> None:
    ids = data.draw(ids_of(kind))
    assert align(table(kind), ids).text == tokenizer(kind).decode(ids, skip_special_tokens=True)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_any_ids_align_to_their_own_text_and_each_token_has_one_step(
    kind: str, data: st.DataObject
) -> None:
    ids = data.draw(ids_of(kind))
    keeps_special = data.draw(st.booleans())
    text = tokenizer(kind).decode(ids, skip_special_tokens=not keeps_special)
    aligned = align(table(kind), ids, text)
    assert aligned.text == text
    assert len(aligned) == len(ids)
    assert aligned.starts == sorted(aligned.starts) and aligned.ends == sorted(aligned.ends)
    spans = steps.newline(text)
    if spans:
        owners = spread(token_spans(aligned, spans))
        places = list(zip(aligned.starts, aligned.ends, strict=True))
        assert owners == owner_by_definition(text, places, spans)


@pytest.mark.parametrize("kind", EXACT)
@settings(max_examples=400, deadline=None)
@given(text=TEXTS)
def test_encoded_text_aligns_where_the_tokenizer_says(kind: str, text: str) -> None:
    encoding = tokenizer(kind).encode(text, add_special_tokens=False)
    if tokenizer(kind).decode(encoding.ids) != text:
        return  # a normaliser changed it, or its leading blank was dropped
    aligned = align(table(kind), encoding.ids, text)
    spans = steps.blank_line(text)
    if spans:
        owners = spread(token_spans(aligned, spans))
        assert owners == owner_by_definition(text, encoding.offsets, spans)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("text", sorted(set(CORPUS)))
def test_text_with_blanks_lost_or_gained_at_its_ends_aligns_the_same(kind: str, text: str) -> None:
    ids = tokenizer(kind).encode("\n " + text + " \n", add_special_tokens=False).ids
    decoded = tokenizer(kind).decode(ids)
    whole = align(table(kind), ids, decoded)
    stripped = align(table(kind), ids, decoded.strip())
    owners = [spread(token_spans(each, steps.sentence(each.text))) for each in (whole, stripped)]
    assert owners[0] == owners[1]


@settings(max_examples=300, deadline=None)
@given(text=TEXTS)
def test_offsets_of_the_caller_give_the_same_steps_as_ids(text: str) -> None:
    encoding = tokenizer("gpt2").encode(text)
    spans = steps.blank_line(text)
    if spans:
        by_ids = token_spans(align(table("gpt2"), encoding.ids, text), spans)
        by_offsets = token_spans(from_offsets(encoding.offsets, text), spans)
        assert by_ids == by_offsets


@settings(max_examples=300, deadline=None)
@given(text=TEXTS, data=st.data())
def test_any_steps_hold_every_token_once(text: str, data: st.DataObject) -> None:
    encoding = tokenizer("gpt2").encode(text)
    cuts = sorted(data.draw(st.sets(st.integers(1, max(1, len(text) - 1)), max_size=8)))
    edges = [0, *cuts, len(text)]
    try:
        spans = steps.given(text, list(pairwise(edges)))
    except InputError:
        return
    found = token_spans(align(table("gpt2"), encoding.ids, text), spans)
    assert len(found) == len(spans)
    assert [found[0][0], found[-1][1]] == [0, len(encoding.ids)]
    assert spread(found) == owner_by_definition(text, encoding.offsets, spans)


@pytest.mark.parametrize("odd", [(0, 4), (3, 4), (-1, 1), (2, 1), (0, 1)])
def test_offsets_beyond_the_text_or_backwards_are_refused(odd: tuple[int, int]) -> None:
    with pytest.raises(InputError) as caught:
        from_offsets([(0, 1), (1, 2), odd], "abc")
    assert caught.value.field == "token_offsets[2]"


@settings(max_examples=200, deadline=None)
@given(text=st.text(min_size=1, max_size=20), data=st.data())
def test_any_offsets_are_used_or_refused(text: str, data: st.DataObject) -> None:
    edges = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8)))
    offsets = list(pairwise(edges))
    sound = data.draw(st.booleans())
    if not sound:
        odd = st.tuples(st.integers(-2, 25), st.integers(-2, 25))
        offsets.insert(data.draw(st.integers(0, len(offsets))), data.draw(odd))
    try:
        aligned = from_offsets(offsets, text)
    except InputError as error:
        assert not sound and error.field and error.field.startswith("token_offsets[")
        return
    assert len(aligned) == len(offsets)
    assert all(0 <= a <= b <= len(text) for a, b in zip(aligned.starts, aligned.ends, strict=True))
