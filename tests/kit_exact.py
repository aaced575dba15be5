"""Judges of random conditional probabilities over a small vocabulary, and an engine of one."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from capo_service.core.exact_votes import TokenChance
from capo_service.core.verdicts.list_start import ListStart
from capo_service.core.verdicts.step_list import StepList
from capo_service.core.vocabulary import TokenTable
from capo_service.engine.base import (
    Completion,
    CritiqueFailedError,
    CritiqueSampling,
    EncodedPrompt,
    EngineStatus,
    JudgeLimits,
    JudgePrompt,
    TokenPrompt,
)

# A vocabulary in which numbers and commas are cut in several ways.
TOKENS = [
    "0",
    "1",
    "2",
    "3",
    "10",
    "11",
    "1,",
    ", ",
    ",",
    " ",
    " 2",
    ", 1",
    "]",
    "]}",
    "}",
    "2]",
    "",
]
END = len(TOKENS) - 1


def accepts_text(start: ListStart, text: str) -> bool:
    try:
        start.then(text)
    except ValueError:
        return False
    return True


class RandomJudge:
    """Random conditional probabilities, which depend on the text so far and on the tokens of it."""

    def __init__(self, n_steps: int, seed: int, sharpness: float) -> None:
        self.start = StepList(n_steps, 0, is_opened=True).start()
        self._seed = seed
        self._sharpness = sharpness

    def logprobs(self, ids: tuple[int, ...]) -> dict[int, float]:
        start = self.start.then("".join(TOKENS[i] for i in ids))
        if start.rest.closed == "]}":
            return {END: 0.0}
        chance = random.Random(f"{self._seed} {ids}")
        weights = {
            token: math.exp(self._sharpness * chance.gauss(0, 1) + 2 * (text[0] == "]"))
            for token, text in enumerate(TOKENS[:-1])
            if accepts_text(start, text) and self.is_finite(start.then(text))
        }
        total = sum(weights.values())
        return {token: math.log(weight / total) for token, weight in weights.items()}

    def is_finite(self, start: ListStart) -> bool:
        """Whether this vocabulary can complete it: it has no digits from 4 on."""
        if start.rest.comma:
            return start.rest.after < 3 or start.rest.n_steps > 11 > start.rest.after
        return not start.rest.digits or int(start.rest.digits) in start.rest.numbers()

    def greedy(self, ids: tuple[int, ...]) -> tuple[list[int], list[Mapping[int, float]]]:
        path, seen = [], []
        while not path or path[-1] != END:
            given = self.logprobs((*ids, *path))
            seen.append(given)
            path.append(max(given, key=given.__getitem__))
        return path, seen

    def verdicts(self, chance: TokenChance) -> Iterator[tuple[frozenset[int], float]]:
        """Each path of tokens to a closed list, and its probability."""
        waiting: list[tuple[tuple[int, ...], float]] = [((), 1.0)]
        while waiting:
            ids, mass = waiting.pop()
            start = self.start.then("".join(TOKENS[i] for i in ids))
            if start.is_complete:
                yield start.listed, mass
                continue
            chances, rest = chance.of(self.logprobs(ids))
            assert rest == 0
            waiting += [((*ids, token), mass * p) for token, p in chances.items()]


@dataclass
class ExactEngine:
    """An engine of such a judge; the prompt is one token, and critiques are greedy.

    `fails`: requests that fail, by number. It checks that each request names the constraint that
    belongs to its prompt.
    """

    judge: RandomJudge
    fails: frozenset[int] = frozenset()
    kind: str = "vllm"
    model: str = "exact"
    requests: list[tuple[tuple[int, ...], CritiqueSampling]] = field(default_factory=list)

    @property
    def status(self) -> EngineStatus:
        return EngineStatus(ready=True)

    async def start(self) -> JudgeLimits:
        return JudgeLimits(top_logprobs=20)

    async def close(self) -> None:
        return None

    async def metrics(self) -> bytes:
        return b""

    async def abort(self, request: str) -> None:
        return None

    def encode(self, prompt: JudgePrompt) -> TokenPrompt:
        return TokenPrompt([99])

    async def complete(
        self, request: str, prompt: EncodedPrompt, sampling: CritiqueSampling
    ) -> Completion:
        assert isinstance(prompt, TokenPrompt) and sampling.temperature == 0
        assert sampling.top_logprobs > 0 and sampling.constraint is not None
        ids = tuple(prompt.ids[1:])
        self.requests.append((ids, sampling))
        if len(self.requests) - 1 in self.fails:
            raise CritiqueFailedError("failed as asked")
        start = self.judge.start.then("".join(TOKENS[i] for i in ids))
        if ids:
            assert sampling.constraint == start.rest
        path, logprobs = self.judge.greedy(ids)
        assert len(path) <= sampling.max_tokens
        return Completion(
            "".join(TOKENS[i] for i in path),
            "stop",
            prompt_tokens=len(prompt.ids),
            completion_tokens=len(path),
            token_ids=path,
            logprobs=logprobs,
        )


def table() -> TokenTable:
    return TokenTable("exact", tuple(TOKENS), {}, frozenset())
