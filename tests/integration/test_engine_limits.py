"""The engine starts with the limits of vLLM's own `LLM`, logs them, and applies grammars."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest
from vllm import AsyncEngineArgs
from vllm.config import VllmConfig
from vllm.usage.usage_lib import UsageContext
from vllm.v1.worker.gpu_model_runner import GPUModelRunner

from capo_service.engine import embedded
from capo_service.engine.base import CritiqueSampling, JudgeLimits, JudgePrompt
from capo_service.engine.cpu_worker import check_patched
from capo_service.engine.vllm import VllmEngine, describe_limits, engine_config, slots_of
from capo_service.engine.vllm_runner import VllmRunner

CHOSEN = ("max_num_seqs", "max_num_batched_tokens")


def arguments(**given: Any) -> AsyncEngineArgs:
    return AsyncEngineArgs(model=str(embedded.folder()), dtype="bfloat16", **given)


def chosen(config: VllmConfig) -> dict[str, Any]:
    return {name: getattr(config.scheduler_config, name) for name in CHOSEN}


@pytest.mark.parametrize("given", [{}, {"max_num_seqs": 7}, {"max_num_batched_tokens": 999}])
def test_batch_limits_are_those_of_vllms_own_llm_class(given: dict[str, Any]) -> None:
    theirs = arguments(**given).create_engine_config(UsageContext.LLM_CLASS)
    ours = engine_config(arguments(**given))
    assert chosen(ours) == chosen(theirs)
    # And these are not the ones for tests, which any call without a usage context gets.
    assert given or chosen(ours) != chosen(arguments().create_engine_config())


def test_the_limits_count_every_rank() -> None:
    config = engine_config(arguments(max_num_seqs=7))
    config.parallel_config.data_parallel_size = 4
    assert slots_of(config) == 28
    assert "each of 4 data-parallel ranks" in describe_limits(config)


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
    assert judge_limits.slots == 5 and "unknown" not in line
    prompt = judge.encode(JudgePrompt((("Answer.", True),), (("What is 2 + 2?", True),)))
    grammar = 'root ::= "<verdict>" [01]{3} "</verdict>"'
    for seed in range(3):
        answer = await judge.complete(
            f"r{seed}", prompt, CritiqueSampling(1.0, 0.9, 40, seed, grammar)
        )
        assert answer.text.startswith("<verdict>") and answer.text.endswith("</verdict>")
        assert answer.finish_reason == "stop"
