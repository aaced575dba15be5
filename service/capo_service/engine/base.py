"""The seam between the credit pipeline and whatever runs the judge."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any, Protocol

PromptSegment = tuple[str, bool]  # text, trusted
FINISHED_EARLY = "abort"
UNLIMITED = 1_000_000  # `slots` of a judge without a limit of its own
_PROCESS = re.compile(rb"(# (HELP|TYPE) )?(process|python)_")


class EngineDeadError(Exception):
    """The engine died or cannot be reached; no request can be served. The caller gets 503."""


class EngineBusyError(Exception):
    """The engine refuses work for now. The caller gets 429."""


class CritiqueFailedError(Exception):
    """The engine failed on one critique; others may succeed.

    `completion`: what it cost, where tokens were sampled for it all the same.
    """

    def __init__(self, message: str, completion: Completion | None = None) -> None:
        super().__init__(message)
        self.completion = completion


@dataclass(frozen=True, slots=True)
class JudgePrompt:
    """A prompt as the engine is given it: two chat turns of trusted and untrusted segments.

    `opening` begins the judge's own turn, where an engine can.
    """

    system: tuple[PromptSegment, ...]
    user: tuple[PromptSegment, ...]
    opening: str = ""


@dataclass(frozen=True, slots=True)
class TokenPrompt:
    """A prompt as token ids.

    `opening` is what of the critique it holds already, `thought` the marker of the thought that
    the chat template leaves open at its end.
    """

    ids: list[int]
    opening: str = ""
    thought: str = ""

    @property
    def tokens(self) -> int:
        """Its length in tokens."""
        return len(self.ids)


@dataclass(frozen=True, slots=True)
class ChatPrompt:
    """A prompt as chat messages; only the server knows how many tokens it has."""

    messages: list[dict[str, str]]
    opening: str = ""
    thought: str = ""
    tokens: int | None = None


EncodedPrompt = TokenPrompt | ChatPrompt


@dataclass(frozen=True, slots=True)
class CritiqueSampling:
    """How one critique is sampled.

    `grammar` (GBNF) and `json_schema` are both set and equivalent, or both None.
    """

    temperature: float
    top_p: float
    max_tokens: int
    seed: int | None = None
    grammar: str | None = None
    json_schema: dict[str, Any] | None = None

    def of_critique(self, position: int) -> CritiqueSampling:
        """For the critique at `position`: k critiques with one seed would be k copies."""
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


@dataclass(frozen=True, slots=True)
class JudgeLimits:
    """What is known of a judge once it is loaded.

    Attributes:
        slots: critiques that it samples side by side; more of them wait inside it.
        context_length: most tokens of prompt and critique together; None where unknown.
        tokenizer_json: its own tokenizer as the text of a `tokenizer.json`, where there is one.
    """

    slots: int = UNLIMITED
    context_length: int | None = None
    tokenizer_json: str | None = None


@dataclass(frozen=True, slots=True)
class EngineStatus:
    """How an engine is at this moment.

    Attributes:
        ready: whether a critique asked for now would be served.
        dead: whether it is lost for good: only a new process brings it back.
        ready_in: seconds until it is expected to be ready again; 0 where unknown.
        restarts: how often it was lost and started again.
    """

    ready: bool
    dead: bool = False
    ready_in: float = 0.0
    restarts: int = 0


def engine_metrics(exposed: bytes) -> bytes:
    """Metrics in Prometheus' text format, without those of a Python process, which are ours."""
    lines = exposed.splitlines(keepends=True)
    return b"".join(line for line in lines if not _PROCESS.match(line))


class Backend(Protocol):
    """What a critic runs on, from start to close."""

    @property
    def kind(self) -> str:
        """`vllm`, `openai`, `symbolic` or `scripted`."""

    @property
    def model(self) -> str:
        """The judge's name, as responses carry it."""

    @property
    def status(self) -> EngineStatus:
        """How it is at this moment."""

    async def start(self) -> JudgeLimits:
        """Load the judge; returns when it is ready.

        Raises:
            ValueError: it cannot be loaded as configured; the message says what to change.
        """

    async def close(self) -> None:
        """Give back everything that `start` took. May be called more than once."""

    async def metrics(self) -> bytes:
        """Its own metrics in Prometheus' text format; empty where it has none."""


class Engine(Backend, Protocol):
    """What runs the judge. One instance serves the whole process; all methods are task-safe."""

    def encode(self, prompt: JudgePrompt) -> EncodedPrompt:
        """Turn a prompt into what the engine sends. CPU work only; safe in any thread."""

    async def complete(
        self, request: str, prompt: EncodedPrompt, sampling: CritiqueSampling
    ) -> Completion:
        """Sample one critique. Cancelling the call frees the engine of it.

        Raises:
            EngineDeadError: the engine is dead, or died while the critique was sampled.
            EngineBusyError: the engine refuses work for now.
            CritiqueFailedError: this critique failed.
        """

    async def abort(self, request: str) -> None:
        """End a critique early: its `complete` returns at once with what there is."""
