"""Ids of words that are kept are those of the `tokenizers` library."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from capo_service.engine.word_encoding import WordEncoder

QWEN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
LLAMA = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
TEXTS = st.lists(
    st.sampled_from([*"aZ09 \n\r\t'!_\x0b\x0c\x1c\x1f\x00\x7f", "it's", "'LL", "we add 12", "  "])
    | st.text(st.characters(max_codepoint=127), max_size=5),
    max_size=30,
).map("".join)


def trained(pre: pre_tokenizers.PreTokenizer) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=500, initial_alphabet=alphabet, show_progress=False)
    texts = ["We've added 12 and 345 to get it's 'LL  done.\n\n  So  we add\r\n\t12 !! (a+b)"] * 3
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def split(pattern: str, **options: bool) -> pre_tokenizers.PreTokenizer:
    first = pre_tokenizers.Split(Regex(pattern), "isolated", **options)
    return pre_tokenizers.Sequence(
        [first, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )


KNOWN = {
    "gpt2": trained(pre_tokenizers.ByteLevel(add_prefix_space=False)),
    "qwen": trained(split(QWEN)),
    "llama": trained(split(LLAMA)),
}
ENCODERS = {name: WordEncoder(tokenizer) for name, tokenizer in KNOWN.items()}


@pytest.mark.parametrize("name", KNOWN)
@settings(max_examples=300, deadline=None)
@given(text=TEXTS)
def test_ids_of_ascii_are_the_librarys(name: str, text: str) -> None:
    assert ENCODERS[name].is_exact
    ids = KNOWN[name].encode(text, add_special_tokens=False).ids
    assert ENCODERS[name].encode(text) == ids
    assert ENCODERS[name].encode(text) == ids  # from the words that are kept


def test_text_beyond_ascii_is_left_to_the_library() -> None:
    assert ENCODERS["gpt2"].encode("naïve") is None


def with_dropout(tokenizer: Tokenizer) -> Tokenizer:
    data = json.loads(tokenizer.to_str())
    data["model"]["dropout"] = 0.5
    return Tokenizer.from_str(json.dumps(data))


def normalized(normalizer: normalizers.Normalizer) -> Tokenizer:
    tokenizer = trained(pre_tokenizers.ByteLevel(add_prefix_space=False))
    tokenizer.normalizer = normalizer
    return tokenizer


def with_added_token() -> Tokenizer:
    tokenizer = trained(pre_tokenizers.ByteLevel(add_prefix_space=False))
    tokenizer.add_tokens(["added"])
    return tokenizer


@pytest.mark.parametrize(
    "tokenizer",
    [
        pytest.param(trained(pre_tokenizers.ByteLevel(add_prefix_space=True)), id="prefix"),
        pytest.param(trained(pre_tokenizers.Metaspace()), id="metaspace"),
        pytest.param(trained(split(r"\p{Lu}+|.")), id="class that is not known"),
        pytest.param(trained(split(r"(a)|b")), id="group"),
        pytest.param(trained(split(r"[a-z]+$|[^\s]+|\s+")), id="end of a line"),
        pytest.param(trained(split(r"^a|[^a]|a")), id="start of a line"),
        pytest.param(trained(split(r"\s+", invert=True)), id="inverted"),
        pytest.param(with_dropout(KNOWN["gpt2"]), id="dropout"),
        pytest.param(normalized(normalizers.Lowercase()), id="normalizer"),
        pytest.param(with_added_token(), id="added token"),
    ],
)
def test_other_tokenizers_are_left_to_the_library(tokenizer: Tokenizer) -> None:
    encoder = WordEncoder(tokenizer)
    assert not encoder.is_exact
    assert encoder.encode("We add 12.") is None


def test_a_composing_normalizer_changes_no_ascii() -> None:
    tokenizer = normalized(normalizers.NFC())
    assert WordEncoder(tokenizer).encode("We add 12.") == tokenizer.encode("We add 12.").ids


def test_characters_that_no_branch_matches_are_not_lost() -> None:
    tokenizer = trained(split(r"\p{L}+"))
    encoder = WordEncoder(tokenizer)
    text = "ab 12 cd"
    assert encoder.encode(text) in (None, tokenizer.encode(text, add_special_tokens=False).ids)


def test_the_words_that_are_kept_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("capo_service.engine.word_encoding._MOST_WORDS", 10)
    encoder = WordEncoder(KNOWN["gpt2"])
    text = " ".join(f"w{chr(97 + n)}{chr(98 + n)}" for n in range(20)) + "x" * 100
    assert encoder.encode(text) == KNOWN["gpt2"].encode(text, add_special_tokens=False).ids
    assert len(encoder._words) <= 10
    assert all(len(word) <= 32 for word in encoder._words)
