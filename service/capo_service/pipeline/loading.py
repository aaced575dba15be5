"""Loads the judge and builds the pipeline from the settings."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import capo_wire as wire
from capo_service.core.vocabulary import TokenTable
from capo_service.engine.base import Engine, JudgeLimits
from capo_service.engine.factory import make_engine
from capo_service.judges.profile import JudgeProfile
from capo_service.observability.live import LiveView
from capo_service.observability.metrics import Telemetry
from capo_service.pipeline.batch import BatchCreditor, CritiqueTokens, Explain
from capo_service.pipeline.critics import Critic, JudgeCritic, SymbolicCritic
from capo_service.pipeline.critique_sampler import CritiqueSampler
from capo_service.pipeline.deduplication import DeduplicatedJudge
from capo_service.pipeline.exact_sampler import ExactSampler
from capo_service.pipeline.judge_digest import fingerprint
from capo_service.pipeline.judge_profile import judge_profile
from capo_service.pipeline.judge_prompt import JudgePrompter
from capo_service.pipeline.prepare import CritiquePolicy, Preparer
from capo_service.pipeline.prompt_view import PromptViewer
from capo_service.pipeline.result_cache import ResultCache
from capo_service.pipeline.rollout import RolloutJudge
from capo_service.pipeline.served_tokenizers import Vocabulary, load_vocabularies
from capo_service.pipeline.verifier import Verifier
from capo_service.scheduling.admission import Admission
from capo_service.scheduling.api_keys import KeyRing
from capo_service.scheduling.thought_lengths import ThoughtLengths
from capo_service.settings import Settings

_TYPICAL_STEPS = 8


@dataclass(frozen=True, slots=True)
class ServiceParts:
    """Parts of a service that exist before its judge is loaded."""

    settings: Settings
    backend: Engine | SymbolicCritic
    profile: JudgeProfile
    verifier: Verifier
    results: ResultCache
    admission: Admission
    keys: KeyRing
    live: LiveView
    telemetry: Telemetry
    explain: Explain


@dataclass(frozen=True, slots=True)
class LoadedService:
    """Parts of a service that exist once its judge is loaded.

    Attributes:
        limits: those of the judge.
        vocabularies: the tokenizers that rollouts may name.
        sampler: samples critiques.
        judge: judges one rollout, never from the cache.
        critique_tokens: the expected tokens of a critique.
        creditor: credits requests.
        prompts: shows the judge's prompts.
    """

    limits: JudgeLimits
    vocabularies: Mapping[str, Vocabulary]
    sampler: CritiqueSampler
    judge: RolloutJudge
    critique_tokens: CritiqueTokens
    creditor: BatchCreditor
    prompts: PromptViewer


def make_backend(settings: Settings) -> Engine | SymbolicCritic:
    """The engine that the settings name, or the arithmetic checker.

    Raises:
        ValueError: a package that it needs is not installed.
    """
    if settings.engine == "symbolic":
        return SymbolicCritic()
    profile = judge_profile(settings)
    shape = profile.shape(_TYPICAL_STEPS, profile.style, 1 << 20, "structural_tag")
    warm_up = shape if shape and shape.is_constrained else None
    return make_engine(settings, warm_up, CritiquePolicy.of(settings, profile).thinking)


async def load(parts: ServiceParts, on_phase: Callable[[str], None]) -> LoadedService:
    """Start the backend and the verifier, load the tokenizers, and put the pipeline together.

    Args:
        parts: parts of the service that exist already.
        on_phase: called with the name of each phase as it begins.

    Raises:
        ValueError: something cannot be loaded as configured; the message says what to change.
        RuntimeError: answers cannot be verified.
    """
    settings, backend, telemetry = parts.settings, parts.backend, parts.telemetry
    on_phase("starting the engine (phase 1 of 2)")
    limits, _ = await asyncio.gather(backend.start(), parts.verifier.start())
    on_phase("loading tokenizers (phase 2 of 2)")
    vocabularies = await asyncio.to_thread(
        load_vocabularies, settings.tokenizers, backend.model, limits.tokenizer_json
    )
    tables = {name: vocabulary.table for name, vocabulary in vocabularies.items()}
    exact = _exact_sampler(backend, limits, tables)
    critic, prompter = _critic(parts, limits, limits.top_logprobs if exact else 0)
    thoughts = ThoughtLengths()
    sampler = CritiqueSampler(critic, thoughts, exact)
    cpu_gate = asyncio.Lock()
    policy = CritiquePolicy.of(settings, parts.profile)
    _check_budget(policy.thinking, limits.context_length)
    preparer = Preparer(prompter, tables, policy)
    judge = RolloutJudge(
        preparer,
        sampler,
        parts.verifier,
        parts.admission,
        cpu_gate,
        telemetry,
    )
    deduplicated = DeduplicatedJudge(
        judge,
        parts.results,
        fingerprint(settings, backend, parts.profile.identity, limits.constraint),
        cpu_gate,
        telemetry,
    )
    tokens = partial(critique_tokens, policy, parts.profile, thoughts)
    creditor = BatchCreditor(
        deduplicated,
        parts.admission,
        parts.keys,
        parts.live,
        tokens,
        telemetry,
        parts.explain,
        limits.context_length if settings.windows else None,
    )
    prompts = PromptViewer(preparer, parts.profile, settings.prefill, limits.thinking_markers)
    return LoadedService(limits, vocabularies, sampler, judge, tokens, creditor, prompts)


def _check_budget(thinking: int, context: int | None) -> None:
    """Refuse a thinking budget with which no rollout could be judged."""
    if context is not None and thinking >= context:
        raise ValueError(
            f"thinking_tokens={thinking} leaves no room for a rollout in the judge's context of "
            f"{context} tokens: lower it, or serve the judge with a longer context (max_model_len)"
        )


def _critic(
    parts: ServiceParts, limits: JudgeLimits, top_logprobs: int
) -> tuple[Critic, JudgePrompter | None]:
    backend = parts.backend
    if isinstance(backend, SymbolicCritic):
        return backend, None
    secret = parts.settings.nonce_secret
    prompter = JudgePrompter(
        backend.encode,
        limits.context_length,
        parts.profile,
        limits.constraint,
        secret.get_secret_value().encode() if secret else secrets.token_bytes(32),
        parts.settings.prefill,
        top_logprobs,
    )
    return JudgeCritic(backend, limits.slots), prompter


def _exact_sampler(
    backend: Engine | SymbolicCritic, limits: JudgeLimits, tables: Mapping[str, TokenTable]
) -> ExactSampler | None:
    """None where the engine returns no log probabilities, or the judge's tokens have no texts."""
    table = tables.get(backend.model)
    if isinstance(backend, SymbolicCritic) or not limits.top_logprobs or table is None:
        return None
    return ExactSampler(backend, table)


def critique_tokens(
    policy: CritiquePolicy, profile: JudgeProfile, thoughts: ThoughtLengths, voting: wire.Voting
) -> int:
    """The expected tokens of a critique, with its thought: by the mean of recent thoughts."""
    style = policy.style_of(voting)
    shape = profile.shape(_TYPICAL_STEPS, style, voting.max_tokens, "structural_tag")
    thought = thoughts.expected_tokens(policy.thinking_tokens(voting))
    return (shape.expected_tokens() if shape else voting.max_tokens) + thought
