"""Align tokens to a text that differs from their decoded form.

Lower-casing tokenizers change letters, and an unknown token stands for any word, so text and ids
may agree without being equal. Characters are compared without white space, case and accents. Only
an unambiguous alignment is accepted.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field

from capo_service.core.errors import InputError
from capo_service.core.vocabulary import TokenTable


@dataclass(slots=True)
class _Folded:
    """A text without what the comparison ignores, and the position of each character."""

    characters: str
    places: list[int]

    @classmethod
    def of(cls, text: str, folds: bool) -> _Folded:
        characters: list[str] = []
        places: list[int] = []
        for place, character in enumerate(text):
            folded = _fold(character) if folds else character
            if not character.isspace() and folded:
                characters.append(folded)
                places.extend([place] * len(folded))
        return cls("".join(characters), places)


@dataclass(slots=True)
class _Walk:
    table: TokenTable
    text: str
    folded: _Folded
    at: int = 0  # position in folded.characters
    starts: list[int] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)

    def take(self, length: int) -> None:
        """Assign the next `length` folded characters to the next token."""
        last = self.ends[-1] if self.ends else 0
        if not length:
            self.starts.append(last)
            self.ends.append(last)
            return
        self.starts.append(self.folded.places[self.at])
        self.ends.append(self.folded.places[self.at + length - 1] + 1)
        self.at += length


def fit_loosely(
    table: TokenTable, ids: Sequence[int], pieces: Sequence[str | bytes], text: str
) -> tuple[list[int], list[int]]:
    """Starts and ends of each token in `text`, in characters.

    Raises:
        InputError: text and ids disagree, or can be aligned in more than one way.
    """
    walk = _Walk(table, text, _Folded.of(text, table.folds))
    unknowns = 0  # preceding unknown tokens whose text is not known yet
    for position, (index, piece) in enumerate(zip(ids, pieces, strict=True)):
        literal = table.special.get(index, piece)
        if isinstance(literal, bytes):
            raise _disagree(walk, position, index)
        wanted = _Folded.of(literal, table.folds).characters
        here = not unknowns and walk.folded.characters.startswith(wanted, walk.at)
        if here:
            walk.take(len(wanted))
        elif index in table.unknown:
            unknowns += 1
        elif index in table.special and not unknowns:
            walk.take(0)
        elif unknowns and wanted:
            found = _find(walk, wanted, starts_word=literal[0].isspace())
            if found < 0 and index in table.special:  # omitted from the text, as decoding may do
                found, wanted = len(walk.folded.characters), ""
            _place_unknowns(walk, unknowns, found, position)
            unknowns = 0
            walk.take(len(wanted))
        else:
            raise _disagree(walk, position, index)
    if unknowns:
        _place_unknowns(walk, unknowns, len(walk.folded.characters), len(ids))
    if walk.at < len(walk.folded.characters):
        raise _disagree(walk, len(ids), None)
    return walk.starts, walk.ends


def _find(walk: _Walk, wanted: str, *, starts_word: bool) -> int:
    """The next position of `wanted`, at least one character ahead; -1 if there is none."""
    found = walk.folded.characters.find(wanted, walk.at + 1)
    while found != -1 and starts_word and not _at_word_start(walk, found):
        found = walk.folded.characters.find(wanted, found + 1)
    return found


def _at_word_start(walk: _Walk, at: int) -> bool:
    place = walk.folded.places[at]
    if place == 0:
        return True
    before, here = walk.text[place - 1], walk.text[place]
    return before.isspace() or any(
        unicodedata.category(character).startswith("P") for character in (before, here)
    )


def _place_unknowns(walk: _Walk, count: int, until: int, position: int) -> None:
    """Divide the characters up to `until` among `count` unknown tokens."""
    if until <= walk.at:
        raise _disagree(walk, position, None)
    places = walk.folded.places[walk.at : until]
    if count == 1:
        walk.take(until - walk.at)
        return
    edges = [n for n in range(len(places)) if n and places[n] > places[n - 1] + 1]
    sizes = [b - a for a, b in zip([0, *edges], [*edges, len(places)], strict=True)]
    if len(sizes) != count:
        sizes = [1] * len(places)
    if len(sizes) != count:
        raise InputError(
            f"{count} unknown tokens before response_token_ids[{position}] stand for "
            f"{walk.text[places[0] : places[-1] + 1][:40]!r}, which can be divided among them in "
            "more than one way; send token_offsets instead",
            field="response_token_ids",
            problem="tokens-disagree",
        )
    for size in sizes:
        walk.take(size)


def _fold(character: str) -> str:
    decomposed = unicodedata.normalize("NFKD", character).casefold()
    return "".join(c for c in decomposed if not unicodedata.combining(c) and not c.isspace())


def _disagree(walk: _Walk, position: int, index: int | None) -> InputError:
    place = walk.folded.places[walk.at] if walk.at < len(walk.folded.places) else len(walk.text)
    token = "the end of the ids" if index is None else f"response_token_ids[{position}] = {index}"
    return InputError(
        f"response and response_token_ids disagree at character {place} "
        f"({walk.text[place : place + 20]!r}), where the ids have {token}; send the text that "
        f"{walk.table.name} decodes these ids to, or leave out response",
        field="response_token_ids",
        problem="tokens-disagree",
    )
