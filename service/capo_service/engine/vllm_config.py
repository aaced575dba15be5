"""vLLM's configuration: what the service sets, and the limits that result."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from capo_service.engine.base import BatchLimits

if TYPE_CHECKING:
    from vllm import AsyncEngineArgs
    from vllm.config import ModelConfig, VllmConfig

CPU_WORKER = "capo_service.engine.cpu_worker.SeedsOnCpu"
# On CPUs vLLM's default is 128. Only whole blocks are cached, so every critique would compute up to
# 127 tokens of its prompt again. vLLM's attention on CPUs is optimized for multiples of 32.
_CPU_BLOCK = 32
_TOP_LOGPROBS = 20  # log probabilities for a token; vLLM's default limit


def default_arguments(is_cpu: bool) -> dict[str, Any]:
    """Engine arguments that the service sets where the operator gives no others."""
    arguments: dict[str, Any] = {"enable_prefix_caching": True}
    if is_cpu:
        arguments |= {"worker_extension_cls": CPU_WORKER, "block_size": _CPU_BLOCK}
    return arguments


def engine_config(arguments: AsyncEngineArgs) -> VllmConfig:
    """vLLM's configuration, with the batch limits of its `LLM` class for this device.

    vLLM 0.32 chooses max_num_seqs / max_num_batched_tokens by who starts the engine:

    | device                       | `LLM`         | `vllm serve`  | neither is said |
    |------------------------------|---------------|---------------|-----------------|
    | CPU                          | 256 / 4,096   | 128 / 2,048   | 128 / 2,048     |
    | A100, and below 70 GiB       | 256 / 8,192   | 256 / 2,048   | 128 / 2,048     |
    | H100, H200 (70 GiB and more) | 1,024 / 16,384| 1,024 / 8,192 | 128 / 2,048     |
    | 160 GiB and more             | 1,024 / 16,384| 1,024 / 16,384| 128 / 2,048     |

    `vllm serve` takes the smaller steps to keep the time between two streamed tokens low. A
    critique is not streamed: its rollout is credited when it is complete, and a trainer waits for
    the last rollout of a batch. So throughput counts, as in `LLM`, and the work is mostly prompts,
    for which more tokens a step mean fewer steps. Where latency counts more, pass
    max_num_batched_tokens.
    """
    from vllm.usage.usage_lib import UsageContext

    return arguments.create_engine_config(UsageContext.LLM_CLASS)


def batch_limits(config: VllmConfig) -> BatchLimits:
    """The limits of a started engine."""
    parallel, cache = config.parallel_config, config.cache_config
    # With other load balancing each process talks to its own ranks only.
    local = parallel.local_engines_only
    return BatchLimits(
        max_num_seqs=config.scheduler_config.max_num_seqs,
        max_num_batched_tokens=config.scheduler_config.max_num_batched_tokens,
        kv_cache_tokens=cache.kv_cache_size_tokens,
        block_size=cache.block_size,
        ranks=parallel.data_parallel_size_local if local else parallel.data_parallel_size,
    )


def top_logprobs(config: ModelConfig) -> int:
    """How many log probabilities of a token to ask for; 0 if they are not of temperature 1.

    Exact votes apply temperature and nucleus themselves.
    """
    if config.logprobs_mode != "raw_logprobs":
        return 0
    most = config.max_logprobs  # -1: the whole vocabulary
    return _TOP_LOGPROBS if most < 0 else min(most, _TOP_LOGPROBS)


def describe_limits(limits: BatchLimits, context: int) -> str:
    """The limits that an engine runs with, as one line for the log."""
    cache = limits.kv_cache_tokens
    size = "KV cache of unknown size" if cache is None else f"KV cache {cache} tokens"
    parts = [
        f"max_num_seqs {limits.max_num_seqs}",
        f"max_num_batched_tokens {limits.max_num_batched_tokens}",
        f"context {context} tokens",
        f"{size} in blocks of {limits.block_size}",
    ]
    if limits.ranks > 1:
        parts.append(f"each of {limits.ranks} data-parallel ranks")
    return f"vLLM's limits: {', '.join(parts)} (change with engine_args)"
