"""Token ids -> character spans -> the token span of each step. Text is never tokenized again.

A `TokenTable` holds what each id of a vocabulary adds to decoded text, so aligning is summing
lengths. Three kinds of vocabulary are aligned exactly for any ids: byte-level BPE (GPT-2, Qwen,
Llama-3, SmolLM2), SentencePiece with or without byte fallback (Llama-2, Gemma, T5) and WordPiece
(BERT). For all others the client sends character offsets.

Why not `DecodeStream` of Hugging Face `tokenizers`, which decodes token by token: alignment and
rewards together run at 8 M tokens/s on one core (bench/core.py; 1.2 M where characters are split
over tokens), decoding by `DecodeStream` alone at 0.3 to 0.4 M. Property tests compare the results
with the library's.

Positions are Unicode code points, as in Python's `str`.
"""

from __future__ import annotations

import codecs
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby, pairwise

from capo_service.core.errors import InputError
from capo_service.core.fuzzy_alignment import fit_loosely
from capo_service.core.steps import Span
from capo_service.core.vocabulary import TokenTable

_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


@dataclass(frozen=True, slots=True)
class Alignment:
    """The position of each token in `text`: token i spans characters `starts[i]` to `ends[i]`.

    Neither list decreases. A token without text (a special token) has an empty span; tokens that
    share a character each have that character's span.
    """

    text: str
    starts: list[int]
    ends: list[int]

    def __len__(self) -> int:
        return len(self.ends)


def align(table: TokenTable, ids: Sequence[int], text: str | None = None) -> Alignment:
    """Align `ids` to `text`; without a text, decode them.

    The text may include or omit special tokens, and may have lost or gained white space, which does
    not matter: a token belongs to the step that has its first non-blank character.

    Raises:
        InputError: an id is not in the vocabulary, or text and ids disagree.
    """
    pieces = table.look_up(ids)
    joined = _join(table, pieces)
    if text is None:
        return _shift(joined, joined.text[table.leading_blanks(pieces, joined.text) :])
    candidates = [joined]
    if joined.text != text and (spelled := table.spell_out_special(ids, pieces)):
        candidates.append(_join(table, spelled))
    for candidate in candidates:
        if candidate.text == text:
            return candidate
    for candidate in candidates:
        if candidate.text.strip() == text.strip():
            return _shift(candidate, text)
    return Alignment(text, *fit_loosely(table, ids, pieces, text))


def from_offsets(offsets: Sequence[Span], text: str) -> Alignment:
    """Use the client's own character spans, one per token.

    An empty span at any position is a token without text. Spans may share a character (one that is
    split over tokens) but must not go backwards.

    Raises:
        InputError: a span is not in the text or goes backwards.
    """
    starts, ends = [], []
    last_start = last_end = 0
    for index, (start, end) in enumerate(offsets):
        if start == end:
            start = end = last_end
        elif not 0 <= start < end <= len(text):
            raise InputError(
                f"token_offsets[{index}] = [{start}, {end}] is not a span of the response, which "
                f"has {len(text)} characters (code points)",
                field=f"token_offsets[{index}]",
            )
        elif start < last_start or end < last_end:
            raise InputError(
                f"token_offsets[{index}] = [{start}, {end}] goes back before the preceding token, "
                f"[{last_start}, {last_end}]",
                field=f"token_offsets[{index}]",
            )
        else:
            last_start, last_end = start, end
        starts.append(start)
        ends.append(end)
    return Alignment(text, starts, ends)


def from_lengths(lengths: Sequence[int], text: str) -> Alignment:
    """Use the number of characters of each token, where tokens cover the whole text in order.

    Raises:
        InputError: a length is negative or too large, or they do not add up to the text's length.
    """
    if lengths and (min(lengths) < 0 or max(lengths) > len(text)):
        index = next(i for i, length in enumerate(lengths) if not 0 <= length <= len(text))
        is_negative = lengths[index] < 0
        raise InputError(
            f"token_lengths[{index}] = {lengths[index]} is "
            + ("negative" if is_negative else f"more than the response has ({len(text)})"),
            field=f"token_lengths[{index}]",
        )
    ends = list(accumulate(lengths))
    total = ends[-1] if ends else 0
    if total != len(text):
        raise InputError(
            f"token_lengths add up to {total}, but the response has {len(text)} characters (code "
            "points)",
            field="token_lengths",
        )
    return Alignment(text, [0, *ends[:-1]] if ends else [], ends)


def token_spans(alignment: Alignment, steps: Sequence[Span]) -> list[Span]:
    """The token span of each step; every token is in exactly one.

    A token belongs to the step that has its first non-blank character; a token without one belongs
    to the step of the token before it (or to the first step). A step whose whole text is inside a
    token of the step before has an empty span.
    """
    text, starts, ends = alignment.text, alignment.starts, alignment.ends
    bounds = [0]
    for step_start, step_end in steps[1:]:
        content = _first_non_blank(text, step_start, step_end)
        token = max(bisect_right(ends, content), bounds[-1])
        while (
            token < len(ends)
            and not content <= _first_non_blank(text, starts[token], ends[token]) < ends[token]
        ):
            token += 1
        bounds.append(token)
    return list(pairwise([*bounds, len(ends)]))


def _first_non_blank(text: str, start: int, end: int) -> int:
    """The position of the first non-blank character of `text[start:end]`, or `end`."""
    part = text[start:end]
    return end - len(part.lstrip())


def _join(table: TokenTable, pieces: list[str | bytes]) -> Alignment:
    try:
        text = "".join(pieces)  # type: ignore[arg-type]  # bytes raise TypeError
    except TypeError:
        return _join_bytes(pieces) if table.whole_stream else _join_runs(pieces)
    ends = list(accumulate(map(len, pieces)))
    return Alignment(text, [0, *ends[:-1]] if ends else [], ends)


def _join_bytes(pieces: list[str | bytes]) -> Alignment:
    """Byte-level BPE: the bytes of all tokens are one stream of UTF-8."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    out: list[str] = []
    starts, ends = [], []
    length = 0
    held = b""  # the first bytes of a character that the next tokens complete
    for piece in pieces:
        start = length
        if isinstance(piece, str) and not held:
            text = piece
        else:
            raw = piece.encode() if isinstance(piece, str) else piece
            text = decoder.decode(raw)
            # Bytes that this token does not continue become a U+FFFD of the tokens before it.
            if held and text[:1] == _REPLACEMENT and not _continues(held, raw):
                start += 1
            held = decoder.getstate()[0]
        out.append(text)
        length += len(text)
        starts.append(start)
        ends.append(length + 1 if held else length)
    out.append(decoder.decode(b"", True))
    return Alignment("".join(out), starts, ends)


def _continues(held: bytes, raw: bytes) -> bool:
    """Whether the first byte of `raw` belongs to the character that `held` begins."""
    try:
        codecs.getincrementaldecoder("utf-8")().decode(held + raw[:1])
    except UnicodeDecodeError:
        return False
    return True


def _join_runs(pieces: list[str | bytes]) -> Alignment:
    """SentencePiece: a run of byte tokens is UTF-8, or decodes to one U+FFFD per byte."""
    out: list[str] = []
    spans: list[Span] = []
    length = 0
    texts = (piece for piece in pieces if piece)  # a special token does not end a run
    for kind, group in groupby(texts, type):
        if kind is str:
            characters = [piece for piece in group if isinstance(piece, str)]
            sizes = [1] * len(characters)
        else:
            run = b"".join(piece for piece in group if isinstance(piece, bytes))
            characters, sizes = _decode_run(run)
        for text, size in zip(characters, sizes, strict=True):
            spans += [(length, length + len(text))] * size
            length += len(text)
        out += characters
    found = iter(spans)
    starts, ends = [], []
    last = 0
    for piece in pieces:
        start, last = next(found) if piece else (last, last)
        starts.append(start)
        ends.append(last)
    # A special token between the bytes of a character has that character's span too.
    starts = list(accumulate(reversed(starts), min))[::-1]
    return Alignment("".join(out), starts, ends)


def _decode_run(run: bytes) -> tuple[list[str], list[int]]:
    """The characters of a run of byte tokens, and the number of tokens of each."""
    try:
        characters = list(run.decode())
    except UnicodeDecodeError:
        return [_REPLACEMENT] * len(run), [1] * len(run)
    return characters, [len(character.encode()) for character in characters]


def _shift(joined: Alignment, text: str) -> Alignment:
    """Move an alignment to a text that differs only in white space at its ends."""
    if joined.text == text:
        return joined
    offset = _first_non_blank(text, 0, len(text)) - _first_non_blank(
        joined.text, 0, len(joined.text)
    )
    size = len(text)
    return Alignment(
        text,
        [min(max(start + offset, 0), size) for start in joined.starts],
        [min(max(end + offset, 0), size) for end in joined.ends],
    )
