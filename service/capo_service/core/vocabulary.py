"""What each id of a vocabulary adds to decoded text, read from a `tokenizer.json`.

The table follows the decoders of Hugging Face `tokenizers`; property tests compare it with that
library's `decode` on random ids. See `alignment` for why the library is not used instead.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from capo_service.core.errors import InputError

_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")
# What the WordPiece decoder replaces in each token when its `cleanup` is on, in this order.
_CLEANUP = {
    " .": ".",
    " ?": "?",
    " !": "!",
    " ,": ",",
    " ' ": "'",
    " n't": "n't",
    " 'm": "'m",
    " do not": " don't",
    " 's": "'s",
    " 've": "'ve",
    " 're": "'re",
}
_FOLDING = {"BertNormalizer", "Lowercase", "StripAccents", "NFKC", "NFKD", "Precompiled"}


def _byte_of_character() -> dict[str, int]:
    """The inverse of GPT-2's map from the 256 bytes to printable characters."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [byte for byte in range(256) if byte not in printable]
    return {chr(b): b for b in printable} | {chr(256 + n): b for n, b in enumerate(rest)}


_BYTES = _byte_of_character()


@dataclass(frozen=True, slots=True)
class TokenTable:
    """The text of each token.

    Attributes:
        name: of the tokenizer.
        pieces: by id: text, or bytes that are not valid UTF-8 alone, or None (no such id). Special
            tokens add no text.
        special: id -> content of the tokens that decoding omits.
        unknown: ids of the unknown token, which stands for any text.
        whole_stream: the bytes of adjacent tokens form one UTF-8 stream (byte-level BPE), instead
            of runs of byte tokens (SentencePiece).
        firsts: WordPiece only: the text of a token in first position.
        strips: how many leading blanks decoding removes.
        strips_token: whether it removes them from the first token only.
        folds: the tokenizer normalises text (case, accents), so decoded ids may differ from it.
    """

    name: str
    pieces: tuple[str | bytes | None, ...]
    special: Mapping[int, str]
    unknown: frozenset[int]
    whole_stream: bool = False
    firsts: tuple[str | None, ...] | None = None
    strips: int = 0
    strips_token: bool = False
    folds: bool = False

    @classmethod
    def from_json(cls, name: str, data: Mapping[str, Any]) -> TokenTable:
        """Build the table from the parsed content of a `tokenizer.json`.

        Raises:
            ValueError: its decoder cannot be aligned exactly.
        """
        model = data["model"]
        vocab = model["vocab"]
        tokens: dict[int, str] = (
            {index: entry[0] for index, entry in enumerate(vocab)}
            if isinstance(vocab, list)
            else {index: token for token, index in vocab.items()}
        )
        added = {entry["id"]: entry for entry in data.get("added_tokens") or ()}
        tokens |= {index: entry["content"] for index, entry in added.items()}
        size = max(tokens, default=-1) + 1
        words = [tokens.get(index) for index in range(size)]
        special = {i: entry["content"] for i, entry in added.items() if entry["special"]}
        unknown = model.get("unk_token")
        unknown_ids = {index for index, token in tokens.items() if token == unknown}
        if isinstance(unk_id := model.get("unk_id"), int):
            unknown_ids.add(unk_id)
        normalizers = {part["type"] for part in _parts(data.get("normalizer"))}

        pieces, options = _decode(name, words, list(_parts(data.get("decoder"))))
        return cls(
            name=name,
            pieces=tuple("" if i in special else piece for i, piece in enumerate(pieces)),
            special=special,
            unknown=frozenset(unknown_ids),
            folds=bool(normalizers & _FOLDING),
            **options,
        )

    def look_up(self, ids: Sequence[int]) -> list[str | bytes]:
        """The piece of each id.

        Raises:
            InputError: an id is not in the vocabulary.
        """
        try:
            found = list(map(self.pieces.__getitem__, ids))
        except IndexError:
            found = [None]
        if None in found or (ids and min(ids) < 0):
            self._refuse(ids)
        if self.firsts is not None:
            first = next((i for i, index in enumerate(ids) if index not in self.special), None)
            if first is not None:
                found[first] = self.firsts[ids[first]]
        return found  # type: ignore[return-value]  # None was refused above

    def _refuse(self, ids: Sequence[int]) -> None:
        for position, index in enumerate(ids):
            if not 0 <= index < len(self.pieces) or self.pieces[index] is None:
                raise InputError(
                    f"response_token_ids[{position}] = {index} is not in the vocabulary of "
                    f"{self.name} ({len(self.pieces)} ids)",
                    field=f"response_token_ids[{position}]",
                )

    def spell_out_special(
        self, ids: Sequence[int], pieces: Sequence[str | bytes]
    ) -> list[str | bytes] | None:
        """`pieces` with the content of special tokens; None if there are none."""
        if self.special.keys().isdisjoint(ids):
            return None
        spelled = [self.special.get(index, piece) for index, piece in zip(ids, pieces, strict=True)]
        if self.firsts is not None:  # every word but the first has a blank before it
            for position, index in enumerate(ids):
                if position and index in self.special:
                    spelled[position] = " " + self.special[index]
                elif position:
                    spelled[position] = self.pieces[index] or ""
        return spelled

    def leading_blanks(self, pieces: Sequence[str | bytes], text: str) -> int:
        """How many leading blanks decoding removes from `text`, which the pieces spell."""
        if self.strips_token:
            first = next((piece for piece in pieces if piece), "")
            text = first if isinstance(first, str) else ""
        return min(len(text) - len(text.lstrip(" ")), self.strips)


def _parts(component: Mapping[str, Any] | None) -> Iterator[Mapping[str, Any]]:
    """The elements of a normalizer or decoder, with sequences flattened."""
    if component is None:
        return
    nested = component.get("decoders") or component.get("normalizers")
    if nested is None:
        yield component
    else:
        for part in nested:
            yield from _parts(part)


def _decode(
    name: str, words: list[str | None], decoders: list[Mapping[str, Any]]
) -> tuple[list[str | bytes | None], dict[str, Any]]:
    """The piece of each token under a decoder, and the table's options for it."""
    kinds = [part["type"] for part in decoders]
    if kinds == ["ByteLevel"]:
        return [_each(word, _byte_level) for word in words], {"whole_stream": True}
    if kinds == ["WordPiece"]:
        prefix, cleanup = decoders[0]["prefix"], decoders[0]["cleanup"]

        def inner(word: str) -> str:
            text = word.removeprefix(prefix) if word.startswith(prefix) else " " + word
            return _clean(text) if cleanup else text

        firsts = tuple(_each(word, _clean if cleanup else str) for word in words)
        return [_each(word, inner) for word in words], {"firsts": firsts}
    if kinds and set(kinds) <= {"Replace", "ByteFallback", "Fuse", "Strip", "Metaspace"}:
        return _sentencepiece(words, decoders, name)
    raise _unsupported(name, kinds)


def _sentencepiece(
    words: list[str | None], decoders: list[Mapping[str, Any]], name: str
) -> tuple[list[str | bytes | None], dict[str, Any]]:
    replacements: list[tuple[str, str]] = []
    options: dict[str, Any] = {}
    byte_tokens = False
    for part in decoders:
        match part:
            case {"type": "Replace", "pattern": {"String": old}, "content": new}:
                replacements.append((old, new))
            case {"type": "Metaspace"}:
                replacements.append((part["replacement"], " "))
                if part.get("prepend_scheme", "always") != "never":
                    options = {"strips": 1 << 30, "strips_token": True}
            case {"type": "Strip", "content": " ", "start": start, "stop": 0}:
                options = {"strips": start}
            case {"type": "ByteFallback"}:
                byte_tokens = True
            case {"type": "Fuse"}:
                pass
            case _:
                raise _unsupported(name, [part["type"]])

    def piece(word: str) -> str | bytes:
        if byte_tokens and (match := _BYTE_TOKEN.fullmatch(word)):
            return bytes([int(match[1], 16)])
        for old, new in replacements:
            word = word.replace(old, new)
        return word

    return [_each(word, piece) for word in words], options


def _each(word: str | None, convert: Any) -> Any:
    return None if word is None else convert(word)


def _byte_level(word: str) -> str | bytes:
    try:
        raw = bytes(map(_BYTES.__getitem__, word))
    except KeyError:
        return word
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw


def _clean(text: str) -> str:
    for old, new in _CLEANUP.items():
        text = text.replace(old, new)
    return text


def _unsupported(name: str, kinds: list[str]) -> ValueError:
    return ValueError(
        f"tokenizer {name} decodes with {kinds or 'no decoder'}, which the service cannot "
        "align; send token_offsets instead of response_token_ids"
    )
