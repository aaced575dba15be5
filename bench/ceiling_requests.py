"""Requests of bench/ceiling.py: bodies that are serialised once, and a caller that only counts."""

from __future__ import annotations

import asyncio
import json
import re
import time
from functools import lru_cache
from itertools import pairwise
from typing import Any

from tokenizers import Tokenizer

from capo_service.engine import embedded

WAYS = ("lengths", "ids", "offsets")
TOKENIZER = "policy"
BATCH, CONNECTIONS = 16, 4
TOKENS_PER_STEP = 100
SENTENCE = "Now the {} of {} has covered {} of the {} miles, so we subtract {} and keep the rest. "
NUMBER = b"Question 00000000"  # another one in each request
# Each request has two other words in each sentence, or the service would know the steps of the
# request before. They are tokens of their own and of one length, so that nothing else changes.
_WORD = re.compile("\u0120[a-z]{5}")  # with the byte-level form of a blank


@lru_cache
def policy_tokenizer() -> Tokenizer:
    """The tokenizer of the rollouts."""
    return Tokenizer.from_file(str(embedded.folder() / "tokenizer.json"))


@lru_cache
def words() -> list[tuple[bytes, bytes]]:
    """Words of five letters, and the token ids of five digits that they are after a blank."""
    vocabulary = policy_tokenizer().get_vocab()
    found = {word[1:]: index for word, index in vocabulary.items() if _WORD.fullmatch(word)}
    used = set(SENTENCE.split())
    return sorted(
        (word.encode(), str(index).encode())
        for word, index in found.items()
        if index >= 10_000
        and word not in used
        and policy_tokenizer().encode(f"a {word} b").ids[1] == index
    )


def body(way: str, length: int) -> bytes:
    """A request of 16 rollouts of one question, which `Caller` changes each time."""
    tokenizer = policy_tokenizer()
    include = ["token_rewards"] if way == "offsets" else []
    options: dict[str, Any] = {"include": include, "deadline_ms": 3_600_000}
    rollouts = []
    for number in range(BATCH):
        text = response(tokenizer, length, number)
        encoding = tokenizer.encode(text, add_special_tokens=False)
        edges = [start for start, _ in encoding.offsets] + [len(text)]
        rollout: dict[str, Any] = {
            "id": str(number),
            "question": f"{NUMBER.decode()}: how many miles are left?",
            "response": text,
            "outcome": 1.0,
        }
        if way == "ids":
            rollout |= {"response_token_ids": encoding.ids, "tokenizer": TOKENIZER}
        elif way == "lengths":
            rollout["token_lengths"] = [end - start for start, end in pairwise(edges)]
        else:
            rollout["token_offsets"] = list(pairwise(edges))
        rollouts.append(rollout)
    return json.dumps({**options, "rollouts": rollouts}, separators=(",", ":")).encode()


def response(tokenizer: Tokenizer, length: int, number: int) -> str:
    """A text of about `length` tokens, in steps of about 100."""
    first, second = (word.decode() for word, _ in words()[:2])
    lines = [
        SENTENCE.format(first, second, 1000 + number, 7000 + line, line)
        for line in range(length // 15)
    ]
    size = len(tokenizer.encode("".join(lines)).ids)
    lines = lines[: length * len(lines) // size]
    per_step = max(len(lines) * TOKENS_PER_STEP // length, 1)
    starts = range(0, len(lines), per_step)
    return "\n\n".join("".join(lines[start : start + per_step]) for start in starts)


class Caller:
    """Sends one body again and again, with another question and other words each time."""

    _sent = 0

    def __init__(self, port: int, body: bytes) -> None:
        self._port = port
        head = (
            f"POST /credit HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: "
            f"application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        ).encode()
        self._request = head + body
        self.answer = b""  # the last

    async def until(self, end: float) -> int:
        """Send until a time of the clock; returns the number of rollouts credited."""
        counts = await asyncio.gather(*(self._connection(end) for _ in range(CONNECTIONS)))
        return sum(counts)

    async def _connection(self, end: float) -> int:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        count = 0
        while not count or time.monotonic() < end:
            count += await self.once(reader, writer)
        writer.close()
        return count

    async def once(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> int:
        writer.write(self._next())
        head = await reader.readuntil(b"\r\n\r\n")
        size = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
        if not size:
            raise RuntimeError(f"no answer: {head!r}")
        self.answer = await reader.readexactly(int(size[1]))
        if b" 200 " not in head[:16]:
            raise RuntimeError(f"not credited: {self.answer[:500]!r}")
        return BATCH

    def _next(self) -> bytes:
        """A request that was not sent before."""
        Caller._sent += 1
        sent = self._request.replace(NUMBER, b"Question %08d" % Caller._sent)
        spare = words()[2:]
        numbers = divmod(Caller._sent % len(spare) ** 2, len(spare))
        for (word, index), chosen in zip(words()[:2], numbers, strict=True):
            other, other_index = spare[chosen]
            sent = sent.replace(b" %b " % word, b" %b " % other)
            sent = sent.replace(b",%b," % index, b",%b," % other_index)
        return sent

    def check(self) -> None:
        """Whether the last answer has the credit of all rollouts."""
        results = json.loads(self.answer)["results"]
        failed = [result for result in results if result["status"] != "ok"]
        if len(results) != BATCH or failed:
            raise RuntimeError(f"not credited: {failed[:1]}")
