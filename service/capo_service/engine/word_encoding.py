"""Encodes ASCII text word by word, with a cache, as byte-level BPE tokenizers do it.

A BPE tokenizer cuts a text into words by a regular expression and encodes each of them on its own,
so the ids of a word can be kept. The `tokenizers` library spends most of its time in that regular
expression: 8,000 tokens of English text take it 8 ms, and this module 1 (docs/performance.md).
Only what is certain to give the library's ids is done here: ASCII text, in which every class of
characters is known, under the forms of tokenizers that GPT-2, SmolLM2, Llama-3 and Qwen have. All
else is left to the library, and so is a tokenizer whose ids differ in a trial at the start.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from tokenizers import Tokenizer, pre_tokenizers

_MOST_WORDS = 50_000  # kept; about 10 MB
_LONGEST_WORD = 32  # characters; longer ones are seldom repeated
_LONGEST_TEXT = 1 << 20
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"  # ByteLevel's
# What the classes of these expressions are in ASCII. Python's \s has four characters more.
_CLASSES = {r"\p{L}": "A-Za-z", r"\p{N}": "0-9", r"\s": r"\t\n\x0b\x0c\r "}
_NOT_BLANK = r"[^\t\n\x0b\x0c\r ]"
_PART = re.compile(r"\\p\{[^}]*\}|\\.|\[\^?|\]|[^\\\[\]]+", re.DOTALL)
_KNOWN_ESCAPES = {r"\r", r"\n", r"\t", r"\S", r"\s", r"\p{L}", r"\p{N}", r"\/"}
_ANCHORS = frozenset("^$")  # in the library they match at every line
_TRIAL = (
    "Step 12: we've added 3,456.78 to x_1 and I'LL get $\\frac{1}{2}$;  then\tstop.\n\n \n"
    "a  b   c\r\n\r\n   'S 'tis it's 'D  !!??  (a+b)=c  foo_bar\x0b\x0c\x1c\x1d\x1e\x1f\x00\x7f "
)


class WordEncoder:
    """Encodes ASCII text as `tokenizer` does, but faster.

    Args:
        tokenizer: has no added tokens.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._words: dict[str, list[int]] = {}
        pattern = _pattern(json.loads(tokenizer.to_str()))
        self._find: Callable[[str], list[str]] | None = None
        self._alphabet: dict[int, str] = {}
        if pattern is not None and pattern.groups == 0:  # else `findall` returns the groups
            self._find = pattern.findall
            self._alphabet = _alphabet()
            if not self._agrees():
                self._find = None
            self._words.clear()

    @property
    def is_exact(self) -> bool:
        """Whether it encodes ASCII for this tokenizer."""
        return self._find is not None

    def encode(self, text: str) -> list[int] | None:
        """The ids of a text; None if the library must encode it."""
        if self._find is None or not text.isascii() or len(text) > _LONGEST_TEXT:
            return None
        words = self._find(text)
        if sum(map(len, words)) < len(text):  # no branch of the expression matches some characters
            return None
        ids: list[int] = []
        known = self._words
        for word in words:
            found = known.get(word)
            ids += self._encode_word(word) if found is None else found
        return ids

    def _encode_word(self, word: str) -> list[int]:
        tokens = self._tokenizer.model.tokenize(word.translate(self._alphabet))
        ids = [token.id for token in tokens]
        if len(word) <= _LONGEST_WORD:
            if len(self._words) >= _MOST_WORDS:  # a hostile policy writes no word twice
                self._words.clear()
            self._words[word] = ids
        return ids

    def _agrees(self) -> bool:
        """Whether the ids are the library's, for texts with every pair of ASCII characters."""
        alphabet = [chr(code) for code in range(128)]
        pairs = "".join(f"{first}{second}" for first in alphabet for second in alphabet)
        texts = [_TRIAL, pairs, pairs[::-1], " ".join(alphabet), "\n".join(alphabet)]
        return all(
            self.encode(text) == self._tokenizer.encode(text, add_special_tokens=False).ids
            for text in texts
        )


def _pattern(data: Mapping[str, Any]) -> re.Pattern[str] | None:
    """The expression for the words of ASCII text; None for another form of tokenizer."""
    model, normalizer = data["model"], data.get("normalizer") or {"type": "NFC"}
    if data["added_tokens"] or model["type"] != "BPE" or model.get("dropout"):
        return None
    if normalizer["type"] != "NFC":  # which changes no ASCII
        return None
    match data.get("pre_tokenizer"):
        case {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}:
            return _of_ascii(_GPT2)
        case {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated"} as split,
                {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False},
            ],
        } if not split.get("invert"):
            return _of_ascii(str(regex))
    return None


def _of_ascii(regex: str) -> re.Pattern[str] | None:
    """An expression of the library for Python's `re`, where the text is ASCII."""
    parts = []
    in_class = False
    for part in _PART.findall(regex):
        unknown = part.startswith("\\") and part not in _KNOWN_ESCAPES
        if unknown or (in_class and part in ("[", "[^", r"\S")):
            return None
        if not in_class and not _ANCHORS.isdisjoint(part.removeprefix("[^")):
            return None
        if part.startswith("["):
            in_class = True
        elif part == "]":
            in_class = False
        elif part == r"\S":
            part = _NOT_BLANK
        elif (inner := _CLASSES.get(part)) is not None:
            part = inner if in_class else f"[{inner}]"
        parts.append(part)
    try:
        return re.compile("".join(parts))
    except re.error:
        return None


def _alphabet() -> dict[int, str]:
    """The characters that stand for ASCII bytes in the words of a byte-level vocabulary."""
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return {code: level.pre_tokenize_str(chr(code))[0][0] for code in range(128)}
