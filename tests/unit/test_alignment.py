"""Alignment by example: the awkward tokens, and the refusals."""

from __future__ import annotations

import pytest

from capo_service.core import steps
from capo_service.core.alignment import align, from_offsets, token_spans
from capo_service.core.errors import InputError
from capo_service.core.vocabulary import TokenTable
from kit import spread, table, tokenizer


def owners(kind: str, ids: list[int], text: str | None = None) -> list[int]:
    aligned = align(table(kind), ids, text)
    return spread(token_spans(aligned, steps.blank_line(aligned.text)))


def byte_ids(text: bytes) -> list[int]:
    """GPT-2 ids, one for each byte."""
    from capo_service.core.vocabulary import _BYTES

    names = {byte: name for name, byte in _BYTES.items()}
    return [tokenizer("gpt2").token_to_id(names[byte]) for byte in text]


def test_every_byte_of_a_split_character_belongs_to_its_step() -> None:
    ids = byte_ids("a\n\n因".encode())
    assert owners("gpt2", ids, "a\n\n因") == [0, 0, 0, 1, 1, 1]


def test_a_blank_character_split_over_tokens_belongs_to_the_step_before() -> None:
    ids = byte_ids("a\n\n\u3000b".encode())
    assert owners("gpt2", ids, "a\n\n\u3000b") == [0, 0, 0, 0, 0, 0, 1]


def test_invalid_utf8_is_one_replacement_for_each_broken_part() -> None:
    ids = byte_ids(b"a\n\n\xe2\x82b\xff")
    aligned = align(table("gpt2"), ids, "a\n\n\ufffdb\ufffd")
    assert list(zip(aligned.starts, aligned.ends, strict=True)) == [
        (0, 1), (1, 2), (2, 3), (3, 4), (3, 4), (4, 5), (5, 6),
    ]  # fmt: skip


def test_bytes_that_nothing_continues_do_not_hold_back_the_next_step() -> None:
    """The token after a broken character begins a step of its own."""
    ids = byte_ids(b"a\xe2") + tokenizer("gpt2").encode("\n\nThen").ids
    text = tokenizer("gpt2").decode(ids)
    assert text == "a\ufffd\n\nThen"
    found = owners("gpt2", ids, text)
    first = align(table("gpt2"), ids, text).starts
    assert [o for o, s in zip(found, first, strict=True) if s >= text.index("T")] == [1] * sum(
        s >= text.index("T") for s in first
    )


def test_special_tokens_belong_to_the_step_before_whether_or_not_the_text_shows_them() -> None:
    end = tokenizer("qwen").token_to_id("<|im_end|>")
    ids = tokenizer("qwen").encode("one\n\ntwo").ids
    for text in ("one\n\ntwo", "one\n\ntwo<|im_end|>"):
        found = owners("qwen", [*ids, end], text)
        assert len(found) == len(ids) + 1
        assert found[-1] == 1


def test_a_lone_special_token_first_belongs_to_the_first_step() -> None:
    start = tokenizer("qwen").token_to_id("<|im_start|>")
    ids = tokenizer("qwen").encode("one\n\ntwo").ids
    assert owners("qwen", [start, *ids], "one\n\ntwo")[0] == 0


def test_an_added_token_that_is_not_special_is_part_of_the_text() -> None:
    ids = tokenizer("qwen").encode("<think>one\n\ntwo").ids
    assert ids[0] == tokenizer("qwen").token_to_id("<think>")
    assert align(table("qwen"), ids, "<think>one\n\ntwo").ends[0] == len("<think>")


def test_the_blank_that_sentencepiece_drops_moves_nothing() -> None:
    ids = tokenizer("llama2").encode("First we add.\n\nThen we divide.").ids
    found = owners("llama2", ids, "First we add.\n\nThen we divide.")
    assert found == sorted(found) and set(found) == {0, 1}


def test_the_dropped_blank_special_tokens_in_the_text_and_byte_tokens_together() -> None:
    llama2 = tokenizer("llama2")
    ids = [*llama2.encode("First").ids, llama2.token_to_id("</s>"), llama2.token_to_id("<0x00>")]
    text = llama2.decode(ids, skip_special_tokens=False)
    assert text == "First</s>\x00"
    assert align(table("llama2"), ids, text).ends[-2:] == [len("First</s>"), len(text)]


def test_a_byte_run_that_is_not_utf8_is_one_replacement_for_each_byte() -> None:
    ids = [tokenizer("llama2").token_to_id(f"<0x{byte:02X}>") for byte in b"\xe2\x82\xac\xff"]
    aligned = align(table("llama2"), ids)
    assert aligned.text == "\ufffd" * 4 == tokenizer("llama2").decode(ids)
    assert aligned.starts == [0, 1, 2, 3]


def test_a_token_that_spans_two_steps_belongs_to_the_first() -> None:
    aligned = from_offsets([(0, 1), (1, 6), (6, 7)], "a\n\nb\n\nc")
    spans = token_spans(aligned, steps.blank_line(aligned.text))
    assert spans == [(0, 1), (1, 2), (2, 3)]
    whole = from_offsets([(0, 7)], "a\n\nb\n\nc")
    assert token_spans(whole, steps.blank_line(whole.text)) == [(0, 1), (1, 1), (1, 1)]


def test_wordpiece_aligns_to_the_original_text_with_its_case_accents_and_lines() -> None:
    text = "First we ADD 12.\n\nThen, a Café!"
    ids = tokenizer("bert").encode(text).ids
    aligned = align(table("bert"), ids, text)
    expected = tokenizer("bert").encode(text).offsets
    for (start, end), token in zip(expected, range(len(ids)), strict=True):
        if start != end:
            assert (aligned.starts[token], aligned.ends[token]) == (start, end)


def test_unknown_words_take_the_word_they_stand_for() -> None:
    text = "First ☃☃ we add.\n\nThen ☂ divide"
    encoding = tokenizer("bert").encode(text, add_special_tokens=False)
    assert "[UNK]" in encoding.tokens
    found = owners("bert", encoding.ids, text)
    aligned = align(table("bert"), encoding.ids, text)
    assert list(zip(aligned.starts, aligned.ends, strict=True)) == encoding.offsets
    assert found == sorted(found) and set(found) == {0, 1}


def test_unknown_words_side_by_side_are_told_apart_by_blanks_or_refused() -> None:
    encoding = tokenizer("bert").encode("add ☃☃ ☂ then", add_special_tokens=False)
    aligned = align(table("bert"), encoding.ids, "add ☃☃ ☂ then")
    assert list(zip(aligned.starts, aligned.ends, strict=True)) == encoding.offsets
    unknown = tokenizer("bert").token_to_id("[UNK]")
    with pytest.raises(InputError, match="more than one way"):
        align(table("bert"), [unknown, unknown], "☃☃☂")


@pytest.mark.parametrize("kind", ["gpt2", "llama2", "t5", "bert"])
def test_text_that_the_ids_do_not_spell_is_refused_with_the_place(kind: str) -> None:
    ids = tokenizer(kind).encode("First we add 12.", add_special_tokens=False).ids
    with pytest.raises(InputError, match="disagree at character") as caught:
        align(table(kind), ids, "First we add 13.")
    assert caught.value.problem == "tokens-disagree"
    for longer in ("First we add 12. And", "First we"):
        with pytest.raises(InputError, match="disagree"):
            align(table(kind), ids, longer)


@pytest.mark.parametrize("bad", [-1, 10**6])
def test_ids_out_of_range_are_named(bad: int) -> None:
    with pytest.raises(InputError, match=rf"response_token_ids\[1\] = {bad} is not in"):
        align(table("gpt2"), [5, bad], "x")


def test_no_tokens_align_to_no_text() -> None:
    assert len(align(table("gpt2"), [], "")) == 0
    with pytest.raises(InputError):
        align(table("gpt2"), [], "text")


def test_a_decoder_of_another_kind_is_refused_by_name() -> None:
    data = {"model": {"vocab": {"a": 0}}, "decoder": {"type": "CTC"}, "added_tokens": []}
    with pytest.raises(ValueError, match=r"CTC.*token_offsets"):
        TokenTable.from_json("odd", data)


@pytest.mark.parametrize(
    ("offsets", "problem"),
    [
        ([(0, 9)], "which has 3 characters"),
        ([(0, 2), (1, 1), (0, 1)], "goes back"),
        ([(2, 1)], "not a span"),
        ([(0, 3), (1, 2)], "goes back"),
    ],
)
def test_offsets_that_overlap_or_run_past_the_text(
    offsets: list[tuple[int, int]], problem: str
) -> None:
    with pytest.raises(InputError, match=problem):
        from_offsets(offsets, "abc")
