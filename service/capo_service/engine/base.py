"""The seam between the credit pipeline and whatever runs the judge."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any, Protocol

Segment = tuple[str, bool]  # text, trusted
FINISHED_EARLY = "abort"
UNLIMITED = 1_000_000  # `slots` of an engine without a limit of its own
_PROCESS = re.compile(rb"(# (HELP|TYPE) )?(process|python)_")


class EngineDeadError(Exception):
    """The engine died or cannot be reached; no request can be served. The caller gets 503."""


class EngineBusyError(Exception):
    """The engine refuses work for now. The caller gets 429."""


class EngineError(Exception):
    """The engine failed on one critique; others may succeed.

    `completion`: what it cost, where tokens were sampled for it all the same.
    """

    def __init__(self, message: str, completion: Completion | None = None) -> None:
        super().__init__(message)
        self.completion = completion


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt as the engine is given it: two chat turns of trusted and untrusted segments.

    `opening` begins the judge's own turn, where an engine can.
    """

    system: tuple[Segment, ...]
    user: tuple[Segment, ...]
    opening: str = ""


@dataclass(frozen=True, slots=True)
class EncodedPrompt:
    """A prompt in the form that the engine sends: token ids, or chat messages.

    `tokens` is its length in tokens; for chat messages it is None (only the server knows).
    `opening` is what of the critique it holds already, `thought` the marker of the thought that
    the chat template leaves open at its end.
    """

    payload: list[int] | list[dict[str, str]]
    tokens: int | None
    opening: str = ""
    thought: str = ""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How one critique is sampled. `grammar` (GBNF) and `json_schema` say the same, or neither."""

    temperature: float
    top_p: float
    max_tokens: int
    seed: int | None = None
    grammar: str | None = None
    json_schema: dict[str, Any] | None = None

    def of_critique(self, position: int) -> Sampling:
        """As the critique at `position` samples: k critiques with one seed would be k copies."""
        if self.seed is None:
            return self
        return replace(self, seed=(self.seed * 0x9E3779B1 + position) & 0x7FFFFFFF)


@dataclass(frozen=True, slots=True)
class Completion:
    """One critique. `finish_reason` is `stop`, `length`, or `abort` where `abort()` ended it."""

    text: str
    finish_reason: str
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0


def engine_metrics(exposed: bytes) -> bytes:
    """Metrics in Prometheus' text format, without those of a Python process, which are ours."""
    lines = exposed.splitlines(keepends=True)
    return b"".join(line for line in lines if not _PROCESS.match(line))


class Engine(Protocol):
    """What runs the judge. One instance serves the whole process; all methods are task-safe."""

    @property
    def kind(self) -> str:
        """`vllm`, `openai`, `symbolic` or `scripted`."""

    @property
    def model(self) -> str:
        """The judge's name, as responses carry it."""

    @property
    def context_length(self) -> int | None:
        """Most tokens of prompt and critique together; None where the server does not tell."""

    @property
    def tokenizer_json(self) -> str | None:
        """The judge's own tokenizer as the text of a `tokenizer.json`, where there is one."""

    @property
    def ready(self) -> bool:
        """Whether a critique asked for now would be served."""

    @property
    def ready_in(self) -> float:
        """Seconds until it should be ready again, as far as is known; 0 where nothing is."""

    @property
    def restarts(self) -> int:
        """How often it was lost and started again."""

    @property
    def slots(self) -> int:
        """Critiques that it samples side by side; more of them wait inside it."""

    @property
    def dead(self) -> bool:
        """Whether it is lost for good: nothing but a new process brings it back."""

    async def start(self) -> None:
        """Load the judge; returns when it is ready.

        Raises:
            ValueError: it cannot be loaded as configured; the message says what to change.
        """

    async def close(self) -> None:
        """Give back everything that `start` took. May be called more than once."""

    def encode(self, prompt: Prompt) -> EncodedPrompt:
        """Turn a prompt into what the engine sends. CPU work only; safe in any thread."""

    async def complete(self, request: str, prompt: EncodedPrompt, sampling: Sampling) -> Completion:
        """Sample one critique. Cancelling the call frees the engine of it.

        Raises:
            EngineDeadError: the engine is dead, or died while the critique was sampled.
            EngineBusyError: the engine refuses work for now.
            EngineError: this critique failed.
        """

    async def abort(self, request: str) -> None:
        """End a critique early: its `complete` returns at once with what there is."""

    async def metrics(self) -> bytes:
        """The engine's own metrics in Prometheus' text format; empty where it has none."""
