"""The code in the heads of a prompt's steps.

A head is a line such as `[3 wx]`: the number of a step and a code. No rollout can forge a head,
because the code is chosen after the rollout was written, from those that are in none of the
prompt's untrusted texts. No text is changed for that, and the code may be short: two letters, which
are one token in most vocabularies.

The order of the choice depends on a secret and the question only. So nearly all rollouts of a
question get the same code, and their prompts share a cached prefix.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import string
import unicodedata
from collections.abc import Iterable, Iterator

CONSONANTS = "bcdfghjklmnpqrstvwxz"
# Pairs that are one token after a blank with the tokenizers of Qwen 2.5 and 3.6, DeepSeek-V3 and
# SmolLM2, and that are rare in English, formulas and programs.
_PAIRS = (
    "bg bh bp cb cf cp cv fd fn gc gn gp kb kh kn kw "
    "mc mk mx nr nx pd pg pk sv tk tx vm wr wt wx xs"
)
SHORT_CODES = tuple(_PAIRS.split())
_LONG = 7  # letters: 20 ** 7 codes, 30 bits

_FOREIGN = re.compile(r"[^\x00-\x7f]+")
_LOWER = bytes.maketrans(string.ascii_uppercase.encode(), string.ascii_lowercase.encode())
_SIGNS = bytes(set(range(128)) - set(string.ascii_letters.encode()))
# Letters that look like a Latin one and are not its compatibility form: Cyrillic, Greek, Armenian,
# small capitals, Cherokee.
_GROUPS = (
    "bвβʙᏏ cсᴄᏟ dԁᴅᏧ fꜰғ gԍɡɢցᏀ hһнհʜᏂ jјᴊᎫ kкκᴋᏦ lӏʟᏞ mмμᴍᎷ "  # noqa: RUF001
    "nηոпɴ pрρᴘᏢ qԛզ rгʀᏒ sѕꜱᏚ tтτᴛᎢ vѵνᴠᏙ wԝωᴡᏔ xхχ zᴢᏃ"  # noqa: RUF001
)
# Letters of which NFKD makes no Latin ones: with strokes and hooks, negative squared, indicators.
_NAMED = re.compile(r"^(?!COMBINING).*(?:LATIN|REGIONAL INDICATOR)\b.*\bLETTER (?:\S+ )*?([A-Z])\b")
_LOOK_ALIKES = {ord(each): group[0] for group in _GROUPS.split() for each in group[1:]}


class _Latin(dict[int, str]):
    """What a character adds to a text's letters, computed at its first use."""

    def __missing__(self, code: int) -> str:
        is_tag = 0xE0020 <= code < 0xE007F  # invisible copies of ASCII
        character = chr(code - 0xE0000) if is_tag else chr(code)
        folded = unicodedata.normalize("NFKD", character).casefold().translate(_LOOK_ALIKES)
        latin = "".join(c for c in folded if c.isascii() and c.isalpha())
        if not latin and (named := _NAMED.match(unicodedata.name(character, ""))):
            latin = named[1].lower()
        if len(self) < 1 << 15:
            self[code] = latin
        return latin


_LATIN = _Latin()


def letters(text: str) -> bytes:
    """The Latin letters of a text in a row: without case, accents, signs, blanks and look-alikes.

    What stands in a text in any disguise that Unicode knows stands in this plainly.
    """
    if not text.isascii():
        text = _FOREIGN.sub(lambda run: run[0].translate(_LATIN), text)
    return text.encode("ascii").translate(_LOWER, _SIGNS)


def step_code(secret: bytes, question: str, texts: Iterable[str]) -> str:
    """A code whose letters are in none of `texts`, in any disguise.

    Args:
        secret: of the service.
        question: together with the secret it decides which codes are tried first.
        texts: all untrusted texts of the prompt.

    Returns:
        Two consonants; seven where the texts contain all of those pairs.
    """
    inside = b" ".join(map(letters, texts))
    return next(code for code in _candidates(secret, question) if code.encode() not in inside)


def consonants(digest: bytes, count: int) -> str:
    """So many consonants, drawn by a digest."""
    number, base = int.from_bytes(digest), len(CONSONANTS)
    return "".join(CONSONANTS[number // base**i % base] for i in range(count))


def _candidates(secret: bytes, question: str) -> Iterator[str]:
    asked = question.encode("utf-8", "surrogatepass")
    order = hmac.digest(secret, b"step code\0" + asked, hashlib.sha256)
    start, stride, count = order[0], order[1] | 1, len(SHORT_CODES)  # an odd stride visits all
    yield from (SHORT_CODES[(start + i * stride) % count] for i in range(count))
    while True:
        order = hmac.digest(secret, order, hashlib.sha256)
        yield consonants(order, _LONG)
