"""The engine starts with the limits of vLLM's own `LLM`, logs them, and applies grammars."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest
from vllm import LLM, AsyncEngineArgs
from vllm.config import VllmConfig
from vllm.engine import arg_utils
from vllm.usage.usage_lib import UsageContext
from vllm.v1.worker.gpu_model_runner import GPUModelRunner

from capo_service.core.verdicts.step_list import StepList
from capo_service.engine import embedded
from capo_service.engine.base import CritiqueSampling, JudgeLimits, JudgePrompt
from capo_service.engine.cpu_worker import check_patched
from capo_service.engine.vllm import VllmEngine
from capo_service.engine.vllm_config import (
    batch_limits,
    default_arguments,
    describe_limits,
    engine_config,
)
from capo_service.engine.vllm_runner import VllmRunner

CHOSEN = ("max_num_seqs", "max_num_batched_tokens", "enable_chunked_prefill", "async_scheduling")


@dataclass
class Device:
    """A GPU, as far as vLLM asks for it when it chooses its batch limits."""

    name: str
    gib: int

    def is_cpu(self) -> bool:
        return False

    def get_device_name(self, device_id: int = 0) -> str:
        return self.name

    def get_device_total_memory(self, device_id: int = 0) -> int:
        return self.gib << 30

    def __getattr__(self, name: str) -> Any:
        return getattr(CPU, name)


CPU = arg_utils.current_platform
# `LLM` and `vllm serve`: sequences and tokens a step.
DEVICES = {
    "cpu": (None, (256, 4096), (128, 2048)),
    "h100": (Device("NVIDIA H100 80GB HBM3", 80), (1024, 16384), (1024, 8192)),
    "a100-80": (Device("NVIDIA A100-SXM4-80GB", 80), (256, 8192), (256, 2048)),
    "a100-40": (Device("NVIDIA A100-PCIE-40GB", 40), (256, 8192), (256, 2048)),
    "l4": (Device("NVIDIA L4", 22), (256, 8192), (256, 2048)),
    "b200": (Device("NVIDIA B200", 180), (1024, 16384), (1024, 16384)),
}


def arguments(**given: Any) -> AsyncEngineArgs:
    return AsyncEngineArgs(model=str(embedded.folder()), dtype="bfloat16", **given)


def chosen(config: VllmConfig) -> dict[str, Any]:
    return {name: getattr(config.scheduler_config, name) for name in CHOSEN}


class ConfiguredError(Exception):
    """What `LLM` was about to start."""

    def __init__(self, config: VllmConfig) -> None:
        self.config = config


def config_of_llm_class(monkeypatch: pytest.MonkeyPatch, **given: Any) -> VllmConfig:
    """The configuration that `vllm.LLM(model)` makes, without the engine."""
    make = arg_utils.EngineArgs.create_engine_config

    def stop(*args: Any, **kwargs: Any) -> Any:
        raise ConfiguredError(make(*args, **kwargs))

    with monkeypatch.context() as patch, pytest.raises(ConfiguredError) as caught:
        patch.setattr(arg_utils.EngineArgs, "create_engine_config", stop)
        LLM(str(embedded.folder()), dtype="bfloat16", **given)
    return caught.value.config


@pytest.mark.parametrize("device", DEVICES)
def test_batch_limits_are_those_of_vllms_own_llm_class(
    device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu, llm_class, serve = DEVICES[device]
    if gpu is not None:
        monkeypatch.setattr(arg_utils, "current_platform", gpu)
    ours = engine_config(arguments(**default_arguments(is_cpu=gpu is None)))
    assert chosen(ours) == chosen(config_of_llm_class(monkeypatch))
    limits = batch_limits(ours)
    assert (limits.max_num_seqs, limits.max_num_batched_tokens) == llm_class
    # The table in engine_config; and what any call without a usage context gets.
    server = batch_limits(arguments().create_engine_config(UsageContext.OPENAI_API_SERVER))
    assert (server.max_num_seqs, server.max_num_batched_tokens) == serve
    unsaid = batch_limits(arguments().create_engine_config())
    assert (unsaid.max_num_seqs, unsaid.max_num_batched_tokens) == (128, 2048)


@pytest.mark.parametrize("given", [{"max_num_seqs": 7}, {"max_num_batched_tokens": 999}])
def test_limits_of_the_operator_are_kept(
    given: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = engine_config(arguments(**given))
    assert chosen(ours) == chosen(config_of_llm_class(monkeypatch, **given))
    assert chosen(ours).items() >= given.items()


def test_on_cpus_every_judge_has_small_blocks_unless_told_otherwise() -> None:
    plain = arguments().create_engine_config()
    assert batch_limits(plain).block_size == 128
    assert batch_limits(engine_config(arguments(**default_arguments(True)))).block_size == 32
    given = default_arguments(True) | {"block_size": 64}
    assert batch_limits(engine_config(arguments(**given))).block_size == 64
    assert "block_size" not in default_arguments(is_cpu=False)  # where vLLM has 16


async def test_a_folder_gets_the_defaults_for_cpus_too(monkeypatch: pytest.MonkeyPatch) -> None:
    judge = VllmEngine(str(embedded.folder()), {"max_model_len": 999})
    judge._prepare()
    assert judge._arguments is not None
    assert (judge._arguments.block_size, judge._arguments.max_model_len) == (32, 999)
    assert judge._arguments.max_num_seqs is None  # the embedded judge's own are for its name only
    other = VllmEngine(str(embedded.folder()), {"block_size": 64})
    other._prepare()
    assert other._arguments is not None and other._arguments.block_size == 64


def test_the_limits_count_every_rank() -> None:
    config = engine_config(arguments(max_num_seqs=7))
    config.parallel_config.data_parallel_size = 4
    limits = batch_limits(config)
    assert (limits.slots, limits.ranks) == (28, 4)
    assert "each of 4 data-parallel ranks" in describe_limits(limits, 8192)


async def test_ranks_that_differ_have_answered_the_ping() -> None:
    """As vLLM's data-parallel ranks do while some sleep and some do not (core_client.py)."""

    class Ranks:
        message = "Engines returned different is_sleeping results: [True, False]"

        async def is_sleeping(self) -> bool:
            raise RuntimeError(self.message)

    runner = object.__new__(VllmRunner)
    runner._llm = Ranks()  # type: ignore[assignment]
    await runner.ping()
    Ranks.message = "the socket is closed"
    with pytest.raises(RuntimeError, match="socket"):
        await runner.ping()


def test_a_vllm_that_no_longer_rewinds_generators_is_refused() -> None:
    class WithoutMethod:
        pass

    class WithoutRewind:
        def _bookkeeping_sync(self) -> None:
            self.discard_request_mask = self.generators = None

    check_patched(GPUModelRunner)
    for runner in (WithoutMethod, WithoutRewind):
        with pytest.raises(RuntimeError, match=r"_bookkeeping_sync.*capo-credit pins"):
            check_patched(runner)


@pytest.fixture(scope="module")
def started_log() -> list[str]:
    return []


@pytest.fixture
async def engine(
    started_log: list[str], caplog: pytest.LogCaptureFixture
) -> AsyncIterator[tuple[VllmEngine, JudgeLimits]]:
    """With a reasoning parser, as an operator passes it for a judge that thinks."""
    judge = VllmEngine("embedded", {"reasoning_parser": "qwen3", "max_num_seqs": 5})
    with caplog.at_level(logging.INFO, "capo_service"):
        judge_limits = await judge.start()
    started_log += [record.getMessage() for record in caplog.records]
    try:
        yield judge, judge_limits
    finally:
        await judge.close()


async def test_a_reasoning_parser_does_not_switch_the_grammar_off(
    engine: tuple[VllmEngine, JudgeLimits], started_log: list[str]
) -> None:
    judge, judge_limits = engine
    [line] = [line for line in started_log if line.startswith("vLLM's limits")]
    assert "max_num_seqs 5, max_num_batched_tokens 2048, context 8192 tokens, KV cache" in line
    assert "in blocks of 32" in line and "unknown" not in line
    batch = judge_limits.batch
    assert batch is not None and (judge_limits.slots, batch.ranks, batch.block_size) == (5, 1, 32)
    assert str(batch.kv_cache_tokens) in line
    prompt = judge.encode(JudgePrompt((("Answer.", True),), (("What is 2 + 2?", True),)))
    shape = StepList(5, 0)
    for seed in range(3):
        answer = await judge.complete(
            f"r{seed}", prompt, CritiqueSampling(1.0, 0.9, 40, seed, shape)
        )
        assert answer.text.startswith('{"incorrect_steps": [') and answer.text.endswith("]}")
        assert answer.finish_reason == "stop"
