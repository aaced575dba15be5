"""What characters a text has: counts, letters and digits, runs, scripts, invisible ones."""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_right
from collections import Counter
from collections.abc import Mapping
from functools import lru_cache

STEP_CONTENT = 4  # letters and digits of a step with content
_FEW = 128  # distinct characters, up to which counting each is faster than `Counter`
_KNOWN = 4096  # characters whose kind is kept
_NO_LETTERS = bytes(code for code in range(128) if not chr(code).isalpha())
_NO_DIGITS = bytes(code for code in range(128) if not chr(code).isdigit())


def count(text: str) -> Mapping[str, int]:
    """How often each character occurs, in the order of their first occurrences.

    In ASCII, where all letters are of one script and nothing is invisible, only the kinds are
    counted: `a` stands for all letters, `0` for digits, and a blank for the rest.
    """
    if text.isascii():
        data = text.encode()
        letters = len(data.translate(None, _NO_LETTERS))
        digits = len(data.translate(None, _NO_DIGITS))
        kinds = {"a": letters, "0": digits, " ": len(data) - letters - digits}
        return {kind: number for kind, number in kinds.items() if number}
    if len(distinct := set(text)) > _FEW:
        return Counter(text)
    return {each: text.count(each) for each in sorted(distinct, key=text.index)}


# `[^\W_]` is what `str.isalnum` accepts.
_CONTENT = re.compile(rf"(?:[\W_]*+[^\W_]){{{STEP_CONTENT}}}")


def has_content(text: str) -> bool:
    """Whether there are letters and digits enough for a step."""
    return _CONTENT.match(text) is not None


_RUN = re.compile(r"(.)\1+", re.DOTALL)


def longest_run(text: str, least: int) -> int:
    """The length of the longest run of one character; 0 if none reaches `least`."""
    # Such a run contains one of these pieces as a whole; most texts then need no search.
    half = least // 2
    pieces = (text[start : start + half] for start in range(0, len(text) - half + 1, half))
    if not any(piece == piece[0] * half for piece in pieces):
        return 0
    longest = max((len(run[0]) for run in _RUN.finditer(text)), default=0)
    return longest if longest >= least else 0


# First code points of Unicode's larger blocks of letters, by script. Greek counts as Latin: it is
# used in mathematics of every language. RE2's \p{...} classes would be more exact (2,876 of
# Unicode's 131,756 letters differ), but take 7 times as long: 5.6 ms for a Chinese text of 7,000
# characters.
_BLOCKS: dict[str, tuple[int, ...]] = {
    "latin": (0x0000, 0x1E00, 0xFB00, 0xFF00, 0x1D400),
    "cyrillic": (0x0400,),
    "armenian": (0x0530,),
    "hebrew": (0x0590, 0xFB1D),
    "arabic": (0x0600, 0xFB50),
    "indic": (0x0900,),
    "thai": (0x0E00,),
    "georgian": (0x10A0,),
    "korean": (0x1100, 0x3130, 0xAC00),
    "han": (0x2E80, 0x3190, 0xF900, 0x20000),
    "other": (0x0F00, 0x1200, 0xD7B0, 0x10000, 0x1D800),
}
_STARTS = sorted(start for starts in _BLOCKS.values() for start in starts)
_SCRIPT_AT = {start: script for script, starts in _BLOCKS.items() for start in starts}


@lru_cache(_KNOWN)
def _script(letter: str) -> str:
    return _SCRIPT_AT[_STARTS[bisect_right(_STARTS, ord(letter)) - 1]]


def scripts(characters: Mapping[str, int]) -> Counter[str]:
    """How many letters of each script there are."""
    counts: Counter[str] = Counter()
    for character, n in characters.items():
        if character.isalpha():
            counts[_script(character)] += n
    return counts


_JOINERS = {"\u200d", "\u200c"}  # of emoji and of several scripts


@lru_cache(_KNOWN)
def is_invisible(character: str) -> bool:
    """Whether a character shows nothing."""
    if character in _JOINERS:
        return False
    return unicodedata.category(character) == "Cf" or character == "\u3164"
