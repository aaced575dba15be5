"""What several tests share: small tokenizers of every kind, and plain rollouts."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

from capo_service.core.vocabulary import TokenTable

CORPUS = [
    "First we add 12 and 30 to get 42.\n\nThen we divide by 6, so the answer is 7.",
    "The café sells 3½ naïve crêpes — that costs 10 €.\n\n因此答案是 7。 こんにちは",
    "x = (a + b)^2 - 4ac;\n  y = \\frac{1}{2}\n\n#### 42",
] * 4
KINDS = ("gpt2", "qwen", "llama2", "gemma", "t5", "bert")


def table(name: str) -> TokenTable:
    return TokenTable.from_json(name, json.loads(tokenizer(name).to_str()))


@cache
def tokenizer(kind: str) -> Tokenizer:
    """A tokenizer of this kind, trained on a few lines: most other text is split into bytes."""
    return {
        "gpt2": _gpt2,
        "qwen": _qwen,
        "llama2": _llama2,
        "gemma": _gemma,
        "t5": _t5,
        "bert": _bert,
    }[kind]()


def _byte_level(specials: list[str]) -> Tokenizer:
    built = Tokenizer(models.BPE())
    built.decoder = decoders.ByteLevel()
    built.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, initial_alphabet=alphabet, special_tokens=specials, show_progress=False
    )
    built.train_from_iterator(CORPUS, trainer)
    return built


def _gpt2() -> Tokenizer:
    return _byte_level(["<|endoftext|>"])


def _qwen() -> Tokenizer:
    built = _byte_level(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    built.normalizer = normalizers.NFC()
    built.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\p{N}|\s+(?!\S)|\s+|[^\s\p{N}]+"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    built.add_tokens([AddedToken("<think>", special=False, normalized=False)])
    return built


def _sentencepiece(decoder: Any, normalizer: Any) -> Tokenizer:
    built = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    built.normalizer = normalizer
    built.decoder = decoder
    byte_tokens = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        special_tokens=["<unk>", "<s>", "</s>", *byte_tokens],
        limit_alphabet=40,
        show_progress=False,
    )
    built.train_from_iterator(CORPUS, trainer)
    # The byte tokens were named special only to be kept by the trainer.
    data = json.loads(built.to_str())
    data["added_tokens"] = data["added_tokens"][:3]
    return Tokenizer.from_str(json.dumps(data))


def _llama2() -> Tokenizer:
    decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return _sentencepiece(
        decoder, normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    )


def _gemma() -> Tokenizer:
    decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    return _sentencepiece(decoder, normalizers.Replace(" ", "▁"))


def _t5() -> Tokenizer:
    built = Tokenizer(models.Unigram())
    built.pre_tokenizer = pre_tokenizers.Metaspace()
    built.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=150, unk_token="<unk>", special_tokens=["<pad>", "</s>", "<unk>"],
        show_progress=False,
    )  # fmt: skip
    built.train_from_iterator(CORPUS, trainer)
    return built


def _bert() -> Tokenizer:
    built = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    built.normalizer = normalizers.BertNormalizer(lowercase=True)
    built.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    built.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(
        vocab_size=200, special_tokens=["[PAD]", "[UNK]", "[CLS]", "[SEP]"], show_progress=False
    )
    built.train_from_iterator(CORPUS, trainer)
    built.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return built


def owner_by_definition(
    text: str, token_spans: list[tuple[int, int]], steps: list[tuple[int, int]]
) -> list[int]:
    """The step of each token, straight from the rule, token by token: slow and plain."""
    owners: list[int] = []
    for start, end in token_spans:
        first = next((p for p in range(start, end) if not text[p].isspace()), None)
        if first is None:
            owners.append(owners[-1] if owners else 0)
        else:
            owners.append(next(i for i, (a, b) in enumerate(steps) if a <= first < b))
    return owners


def spread(spans: list[tuple[int, int]]) -> list[int]:
    """Token spans of steps -> the step of each token."""
    return [step for step, (start, end) in enumerate(spans) for _ in range(start, end)]
