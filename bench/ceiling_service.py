"""The service of bench/ceiling.py: `capo serve` on one core, with an engine that answers at once.

Run as a process of its own: python ceiling_service.py SETTINGS_AS_JSON CORE HELD. The engine
encodes each prompt with the embedded judge's tokenizer, and gives the same verdict for every
critique. It holds all answers back until HELD critiques wait for one; 0: none.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys

from capo_service.cli import serve
from capo_service.engine import embedded
from capo_service.engine.base import (
    UNLIMITED,
    Completion,
    CritiqueSampling,
    EncodedPrompt,
    EngineStatus,
    JudgeLimits,
    JudgePrompt,
)
from capo_service.engine.prompt_encoder import PromptEncoder
from capo_service.settings import Settings

VERDICT = '{"analysis": "The sum in the second step is wrong.", "incorrect_steps": [1]}'


class InstantEngine:
    """Answers every critique with one verdict, at once or when `held` critiques wait."""

    kind = "scripted"
    model = embedded.NAME
    status = EngineStatus(True)

    def __init__(self, held: int) -> None:
        self._encoder = PromptEncoder(str(embedded.folder()))
        self._waiting = held
        self._all_wait = asyncio.Event()

    async def start(self) -> JudgeLimits:
        return JudgeLimits(UNLIMITED, 1_000_000, self._encoder.tokenizer_json)

    async def close(self) -> None:
        pass

    def encode(self, prompt: JudgePrompt) -> EncodedPrompt:
        return self._encoder.encode(prompt)

    async def complete(
        self, request: str, prompt: EncodedPrompt, sampling: CritiqueSampling
    ) -> Completion:
        self._waiting -= 1
        if self._waiting <= 0:
            self._all_wait.set()
        await self._all_wait.wait()
        text = VERDICT.removeprefix(prompt.opening)
        return Completion(text, "stop", prompt.tokens or 0, 0, 24)

    async def abort(self, request: str) -> None:
        pass

    async def metrics(self) -> bytes:
        return b""


def main() -> int:
    settings, core, held = json.loads(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    os.sched_setaffinity(0, {core})
    serve.make_backend = lambda _: InstantEngine(held)
    return serve.run(Settings(**{"model": embedded.NAME} | settings))


if __name__ == "__main__":
    sys.exit(main())
