"""Offsets that the client computes: consistent for any ids, and the service's own for real text."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from capo_service.core import steps
from capo_service.core.alignment import align, from_offsets, token_spans
from capo_wire.token_offsets import decode_with_offsets
from kit import table, tokenizer
from property.test_alignment import TEXTS, ids_of

KINDS = ("gpt2", "qwen", "llama2", "gemma")  # whose decoding is the sum of its tokens


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_any_ids_give_one_span_a_token_that_the_service_takes(
    kind: str, data: st.DataObject
) -> None:
    ids = data.draw(ids_of(kind))
    text, spans = decode_with_offsets(tokenizer(kind), ids)
    assert len(spans) == len(ids)
    aligned = from_offsets(spans, text)
    assert aligned.starts == sorted(aligned.starts)
    covered = {place for start, end in spans for place in range(start, end)}
    assert covered == set(range(len(text)))


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=300, deadline=None)
@given(text=TEXTS)
def test_encoded_text_has_the_steps_that_the_service_gives_it(kind: str, text: str) -> None:
    ids = tokenizer(kind).encode(text, add_special_tokens=False).ids
    decoded, spans = decode_with_offsets(tokenizer(kind), ids)
    served = align(table(kind), ids)
    assert decoded.strip(" ") == served.text.strip(" ")
    if decoded == served.text and "\N{REPLACEMENT CHARACTER}" not in decoded:
        cuts = steps.newline(decoded)
        assert token_spans(from_offsets(spans, decoded), cuts) == token_spans(served, cuts)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("run", [1, 10, 11, 32, 100])
def test_replacement_characters_of_the_text_itself_are_kept(kind: str, run: int) -> None:
    text = "\N{REPLACEMENT CHARACTER}" * run + "a"
    ids = tokenizer(kind).encode(text, add_special_tokens=False).ids
    decoded, spans = decode_with_offsets(tokenizer(kind), ids)
    assert decoded == tokenizer(kind).decode(ids, skip_special_tokens=False)
    assert decoded.strip() == text and spans[-1][1] == len(decoded)


def test_a_tokenizer_that_only_decodes_gives_the_same() -> None:
    class Slow:
        """As tokenizers are that have no Rust behind them."""

        all_special_ids = (0,)

        def decode(self, ids: list[int], skip_special_tokens: bool) -> str:
            return str(tokenizer("gpt2").decode(ids, skip_special_tokens=skip_special_tokens))

    text = "So 😀 é\n\n因此 12"
    ids = [*tokenizer("gpt2").encode(text).ids, 0]
    assert decode_with_offsets(Slow(), ids) == decode_with_offsets(tokenizer("gpt2"), ids)
    assert decode_with_offsets(Slow(), ids)[0] == text


def test_special_tokens_and_bytes_that_never_end() -> None:
    gpt2 = tokenizer("gpt2")
    end = gpt2.token_to_id("<|endoftext|>")
    a = gpt2.encode("a").ids
    assert decode_with_offsets(gpt2, [end, *a, end]) == ("a", [(0, 0), (0, 1), (1, 1)])
    first_byte = gpt2.encode("ф").ids[0]
    text, spans = decode_with_offsets(gpt2, [first_byte] * 200)
    assert set(text) == {"\N{REPLACEMENT CHARACTER}"} and len(spans) == 200
    assert spans[-1][1] == len(text)
    assert decode_with_offsets(gpt2, []) == ("", [])
