"""Character spans of a rollout's tokens, by the caller's own tokenizer.

For rollouts whose tokenizer the service does not serve: the ids are decoded here, one by one, and
sent as `response` and `token_offsets`. Text is never tokenized again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from itertools import accumulate, pairwise
from operator import index
from typing import Any

from capo_wire.segmentation import Span

_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
# Bytes that form no character within this many tokens are undecodable. The limit keeps the time
# linear for hostile rollouts.
_LONGEST_CHARACTER = 32
_MOST_BYTES = 4  # of a character in UTF-8


def decode_with_offsets(tokenizer: Any, ids: Sequence[int]) -> tuple[str, list[Span]]:
    """Decode sampled ids into a text and the character span of each id.

    Args:
        tokenizer: of Hugging Face's transformers, or a `tokenizers.Tokenizer`.
        ids: T sampled ids, as a list, an array or a tensor. Special tokens have no text.

    Returns:
        The text, and T spans (start, end) of code points in it: `response` and `token_offsets` of
        the wire. Tokens that share a character all have the span of that character; a special
        token has an empty span at its position.
    """
    numbers = list(map(index, ids))  # scalars of torch do not compare equal in a set
    backend = getattr(tokenizer, "backend_tokenizer", tokenizer)
    special = _special_ids(tokenizer, backend)
    step = _stream(backend) or _windows(tokenizer)
    parts: list[str] = []
    spans: list[Span] = []
    held: list[tuple[int, int]] = []  # positions and ids whose character is incomplete
    begun = 0  # number of tokens that have their span
    length = 0

    def emit(text: str, until: int) -> None:
        nonlocal begun, length
        spans.extend([(length, length + len(text))] * (until - begun))
        begun = until
        length += len(text)
        parts.append(text)
        held.clear()

    waiting = deque(enumerate(numbers))
    while waiting:
        position, token = waiting.popleft()
        if token in special:
            if not held:  # else it is among the bytes of a character, and shares its span
                emit("", position + 1)
            continue
        held.append((position, token))
        text = None
        end = len(held)
        try:
            text = step(token)
        except Exception:  # bytes that change what bytes before them spelled (SentencePiece)
            text = _decode(backend, [token for _, token in held])
            step = _stream(backend) or _windows(tokenizer)
        if text is None and len(held) >= _LONGEST_CHARACTER:
            ids_held = [token for _, token in held]
            end = _last_boundary(backend, ids_held)
            text = _decode(backend, ids_held[:end])
            step = _stream(backend) or _windows(tokenizer)
        if text is not None:
            rest = held[end:]
            emit(text, rest[0][0] if rest else position + 1)
            waiting.extendleft(reversed(rest))
    emit(_decode(backend, [token for _, token in held]) if held else "", len(numbers))
    return "".join(parts), spans


def token_lengths(offsets: Sequence[Any], characters: int) -> list[int] | None:
    """The number of characters of each token, for the wire's `token_lengths`.

    Of tokens that share characters, the first has them. Steps get the same tokens either way.

    Args:
        offsets: spans as `decode_with_offsets` returns them, as pairs in any sequence.
        characters: length of the text.

    Returns:
        None if the spans leave out characters, go backwards, or are no pairs of integers.
    """
    lengths: list[int] = []
    reached, shared = 0, (-1, -1)
    for pair in offsets:
        if type(pair) not in (tuple, list) or len(pair) != 2:
            return None
        start, end = pair
        if type(start) is not int or type(end) is not int or start < 0:
            return None
        if start == end or (start, end) == shared:
            lengths.append(0)
        elif start == reached and end > start:
            lengths.append(end - start)
            reached, shared = end, (start, end)
        else:
            return None
    return lengths if reached == characters else None


def offsets_of(lengths: Sequence[int]) -> list[Span]:
    """The spans of tokens that cover a text, by their lengths."""
    return list(pairwise(accumulate(lengths, initial=0)))


def _last_boundary(backend: Any, ids: Sequence[int]) -> int:
    """The last place where undecodable ids can be cut without cutting a character.

    U+FFFD in a text looks like incomplete bytes, so a run of it reaches the limit, which may fall
    inside a character. Both parts of a character decode to a U+FFFD for each of their bytes, so the
    cut with the shortest text is between characters. A character has up to four bytes.
    """
    cuts = range(len(ids) - _MOST_BYTES, len(ids) + 1)
    return min(cuts, key=lambda cut: len(_decode(backend, ids[:cut]) + _decode(backend, ids[cut:])))


def _special_ids(tokenizer: Any, backend: Any) -> set[int]:
    found = set(getattr(tokenizer, "all_special_ids", ()))
    added: Any = getattr(backend, "get_added_tokens_decoder", dict)()
    return found | {number for number, token in added.items() if token.special}


def _stream(backend: Any) -> Callable[[int], str | None] | None:
    """The incremental decoder of the `tokenizers` library; None for other tokenizers."""
    if not hasattr(backend, "get_added_tokens_decoder"):
        return None
    from tokenizers.decoders import DecodeStream

    stream = DecodeStream(skip_special_tokens=False)
    return lambda token: stream.step(backend, token)


def _windows(tokenizer: Any) -> Callable[[int], str | None]:
    """An incremental decoder for other tokenizers: the text that the last ids add."""
    ids: list[int] = []
    before = read = 0

    def step(token: int) -> str | None:
        nonlocal before, read
        ids.append(token)
        known = _decode(tokenizer, ids[before:read])
        text = _decode(tokenizer, ids[before:])
        if len(text) <= len(known) or text.endswith(_REPLACEMENT):
            return None
        before, read = read, len(ids)
        return text[len(known) :]

    return step


def _decode(tokenizer: Any, ids: Sequence[int]) -> str:
    return str(tokenizer.decode(list(ids), skip_special_tokens=False))
