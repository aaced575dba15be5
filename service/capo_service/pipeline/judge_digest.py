"""Digest of everything that can change a critique: results with equal digests can be mixed."""

from __future__ import annotations

import hashlib
import json

from capo_service import version
from capo_service.engine.base import Backend, ConstraintForm
from capo_service.engine.local_models import weights_digest
from capo_service.settings import Settings

# The settings that change results.
_SETTINGS = {
    "engine_args",
    "chat_template_kwargs",
    "critique_style",
    "critique_format",
    "prefill",
    "thinking_tokens",
    "thinking_markers",
    "reasoning_effort",
    "max_steps",
    "windows",
    "suspicion",
    "symbolic_votes",
}
# Engine arguments that change speed and memory, and not the samples.
_CAPACITY = {
    "api_server_count",
    "block_size",
    "cpu_offload_gb",
    "data_parallel_size",
    "disable_log_stats",
    "distributed_executor_backend",
    "enable_chunked_prefill",
    "enable_prefix_caching",
    "enforce_eager",
    "gpu_memory_utilization",
    "kv_cache_memory_bytes",
    "max_num_batched_tokens",
    "max_num_seqs",
    "pipeline_parallel_size",
    "tensor_parallel_size",
}


def fingerprint(
    settings: Settings, judge: Backend, profile: str, constraint: ConstraintForm
) -> str:
    """Everything in a service that can change a result, as text.

    Args:
        settings: of the service.
        judge: its engine.
        profile: the identity of the judge's profile.
        constraint: how critiques are constrained; an upstream may take another form after an
            update.
    """
    chosen = settings.model_dump(mode="json", include=_SETTINGS | {"tokenizers"})
    weights = weights_digest(judge.model)
    parts = [version(), judge.kind, judge.model, weights, profile, constraint, chosen]
    return json.dumps(parts, sort_keys=True)


def judge_digest(settings: Settings, judge: Backend, profile: str) -> str:
    """Digest of the judge and of all settings that can change its critiques: 16 hex digits.

    It covers less than `fingerprint`, because a file that is judged in several runs keeps it: a run
    may continue after an update, or with fewer sequences on a smaller GPU. `profile` is the
    identity of the judge's profile.
    """
    chosen = settings.model_dump(mode="json", include=_SETTINGS)
    arguments = {k: v for k, v in chosen.pop("engine_args").items() if k not in _CAPACITY}
    weights = weights_digest(judge.model)
    parts = [judge.kind, judge.model, weights, profile, chosen, arguments]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]
