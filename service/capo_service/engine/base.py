"""The interface between the credit pipeline and the engines that run a judge."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

PromptSegment = tuple[str, bool]  # text, trusted
# How an engine constrains critiques, from the most to the least exact. `structural_tag`: that of
# xgrammar, which bounds free text in tokens; `grammar`: GBNF; `json_schema`; `none`: not at all.
ConstraintForm = Literal["structural_tag", "grammar", "json_schema", "none"]
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
    """The input of an engine: two chat turns of trusted and untrusted segments.

    `opening` is the start of the judge's turn, for engines that support it. `thinking`: the judge
    thinks first, and the prompt ends inside its thought.
    """

    system: tuple[PromptSegment, ...]
    user: tuple[PromptSegment, ...]
    opening: str = ""
    thinking: bool = False


@dataclass(frozen=True, slots=True)
class TokenPrompt:
    """A prompt as token ids.

    `opening`: the start of the critique, with which the ids end. `closing_tokens`: tokens that end
    the thought which the ids open; 0 if they open none. `group`: equal for prompts that share their
    beginning, those of one question.
    """

    ids: list[int]
    opening: str = ""
    closing_tokens: int = 0
    group: int = 0

    @property
    def tokens(self) -> int:
        """The prompt's length in tokens."""
        return len(self.ids)


@dataclass(frozen=True, slots=True)
class ChatPrompt:
    """A prompt as chat messages; only the server knows how many tokens it has."""

    messages: list[dict[str, str]]
    opening: str = ""
    closing_tokens: int = 0
    tokens: int | None = None


EncodedPrompt = TokenPrompt | ChatPrompt


class Constraint(Protocol):
    """What the judge may write after its thought, in the forms that engines take.

    A form that cannot express it is None. Constraints are hashable, equal ones are the same.
    """

    def __hash__(self) -> int: ...

    def structure(self) -> list[dict[str, Any]]:
        """The elements of a sequence in an xgrammar structural tag."""

    def grammar(self) -> str | None:
        """GBNF."""

    def json_schema(self) -> dict[str, Any] | None:
        """A JSON schema."""


@dataclass(frozen=True, slots=True)
class CritiqueSampling:
    """Sampling parameters of one critique.

    Attributes:
        max_tokens: maximum tokens after the thought, the end token included.
        constraint: what the judge may write after the thought; None: anything.
        thinking_tokens: maximum tokens of the thought; 0: there is none.
        top_logprobs: most likely tokens to return for each sampled one; at most the judge's
            `JudgeLimits.top_logprobs`.
    """

    temperature: float
    top_p: float
    max_tokens: int
    seed: int | None = None
    constraint: Constraint | None = None
    thinking_tokens: int = 0
    top_logprobs: int = 0

    def of_critique(self, position: int) -> CritiqueSampling:
        """The parameters at `position`: with one seed all k critiques would be equal."""
        if self.seed is None:
            return self
        return replace(self, seed=(self.seed * 0x9E3779B1 + position) & 0x7FFFFFFF)


@dataclass(frozen=True, slots=True)
class Completion:
    """One critique.

    Attributes:
        text: what the judge wrote after its thought.
        finish_reason: `stop`, `length`, or `abort` where `abort()` ended it.
        completion_tokens: all sampled tokens, those of the thought included.
        thinking: the thought, without its markers.
        thinking_tokens: its tokens.
        thinking_truncated: whether it reached its budget and was ended there.
        token_ids: the sampled tokens, if `top_logprobs` were asked for.
        logprobs: for each of them, the log probabilities of the most likely tokens by id, among
            those that the constraint allows, at temperature 1.
    """

    text: str
    finish_reason: str
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    thinking: str = ""
    thinking_tokens: int = 0
    thinking_truncated: bool = False
    token_ids: Sequence[int] = ()
    logprobs: Sequence[Mapping[int, float]] = ()


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """What an engine in this process tree computes at once.

    Attributes:
        max_num_seqs: critiques that one rank samples concurrently.
        max_num_batched_tokens: tokens that one rank computes in a step.
        kv_cache_tokens: tokens that fit into one rank's KV cache; None if unknown.
        block_size: tokens in a block of the KV cache; only whole blocks are reused.
        ranks: data-parallel ranks.
    """

    max_num_seqs: int
    max_num_batched_tokens: int
    kv_cache_tokens: int | None
    block_size: int
    ranks: int = 1

    @property
    def slots(self) -> int:
        """Critiques that all ranks together sample concurrently."""
        return self.max_num_seqs * self.ranks


@dataclass(frozen=True, slots=True)
class JudgeLimits:
    """Limits of a loaded judge.

    Attributes:
        slots: critiques that the engine samples concurrently; it queues more.
        context_length: maximum tokens of prompt and critique together; None if unknown.
        tokenizer_json: the text of the judge's `tokenizer.json`, if it has one.
        constraint: how the engine constrains critiques.
        thinking_markers: what opens and closes a thought; None if only the judge's server knows.
        top_logprobs: tokens whose log probabilities the engine returns at most; 0: none.
        batch: what the engine computes at once; None if only the judge's server knows.
    """

    slots: int = UNLIMITED
    context_length: int | None = None
    tokenizer_json: str | None = None
    constraint: ConstraintForm = "structural_tag"
    thinking_markers: tuple[str, str] | None = None
    top_logprobs: int = 0
    batch: BatchLimits | None = None


@dataclass(frozen=True, slots=True)
class EngineStatus:
    """The state of an engine.

    Attributes:
        ready: whether it serves critiques.
        dead: whether it has failed permanently, and only a new process helps.
        ready_in: seconds until it is expected to be ready again; 0 if unknown.
        restarts: number of restarts.
    """

    ready: bool
    dead: bool = False
    ready_in: float = 0.0
    restarts: int = 0


def engine_metrics(exposed: bytes) -> bytes:
    """Metrics in Prometheus' text format, without process metrics, which the service has itself."""
    lines = exposed.splitlines(keepends=True)
    return b"".join(line for line in lines if not _PROCESS.match(line))


class Backend(Protocol):
    """The lifecycle of an engine or of the arithmetic checker."""

    @property
    def kind(self) -> str:
        """`vllm`, `openai`, `symbolic` or `scripted`."""

    @property
    def model(self) -> str:
        """The judge's name in responses."""

    @property
    def status(self) -> EngineStatus:
        """The current state."""

    async def start(self) -> JudgeLimits:
        """Load the judge; returns when it is ready.

        Raises:
            ValueError: it cannot be loaded as configured; the message says what to change.
        """

    async def close(self) -> None:
        """Release everything that `start` acquired. May be called more than once."""

    async def metrics(self) -> bytes:
        """Its metrics in Prometheus' text format; empty if it has none."""


class Engine(Backend, Protocol):
    """Runs the judge. One instance serves the whole process; all methods are task-safe."""

    def encode(self, prompt: JudgePrompt) -> EncodedPrompt:
        """Encode a prompt for the engine. CPU work only; safe in any thread."""

    async def complete(
        self, request: str, prompt: EncodedPrompt, sampling: CritiqueSampling
    ) -> Completion:
        """Sample one critique. Cancelling the call aborts it in the engine.

        Raises:
            EngineDeadError: the engine is dead, or died while the critique was sampled.
            EngineBusyError: the engine refuses work for now.
            CritiqueFailedError: this critique failed.
        """

    async def abort(self, request: str) -> None:
        """End a critique early: its `complete` returns at once with the text so far."""
