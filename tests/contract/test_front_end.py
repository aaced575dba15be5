"""What the service spares vLLM's front end changes no request. No engine is started."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from capo_service.core.verdicts.step_list import StepList
from capo_service.engine import embedded
from capo_service.engine.base import (
    CritiqueFailedError,
    CritiqueSampling,
    EngineDeadError,
    TokenPrompt,
)
from capo_service.engine.thinking import ThoughtEnd, structural_tag
from capo_service.engine.vllm_config import engine_config
from capo_service.engine.vllm_front_end import FrontEnd

pytestmark = [
    pytest.mark.slow,  # imports vLLM
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed"),
]
ROOT = Path(__file__).parents[2]
END = ThoughtEnd("</think>\n\n")
SAMPLINGS = {
    "list": CritiqueSampling(0.7, 0.9, 40, constraint=StepList(12, 0)),
    "analysis": CritiqueSampling(0.7, 0.9, 40, seed=3, constraint=StepList(12, 60)),
    "thought": CritiqueSampling(1.0, 1.0, 40, 3, StepList(12, 0), thinking_tokens=8),
    "free text": CritiqueSampling(0.7, 0.9, 40, seed=3),
    "greedy": CritiqueSampling(0.0, 1.0, 40, constraint=StepList(400, 60)),
    "log probabilities": CritiqueSampling(0.7, 0.9, 40, 3, StepList(12, 0), top_logprobs=5),
}


@dataclass(frozen=True)
class Malformed:
    """A constraint that xgrammar cannot parse."""

    def structure(self) -> list[dict[str, Any]]:
        return [{"type": "grammar", "grammar": "root ::= ("}]

    def grammar(self) -> None:
        return None

    def json_schema(self) -> None:
        return None


@pytest.fixture(scope="module")
def processor() -> Any:
    from vllm import AsyncEngineArgs
    from vllm.v1.engine.input_processor import InputProcessor

    arguments = AsyncEngineArgs(model=str(embedded.folder()), dtype="bfloat16")
    return InputProcessor(engine_config(arguments))


@pytest.fixture
def front_end(processor: Any) -> Iterator[FrontEnd]:
    made = FrontEnd(SimpleNamespace(renderer=processor.renderer), END, 100)  # type: ignore[arg-type]
    try:
        yield made
    finally:
        made.close()
        vars(processor.renderer).pop("validate_token_ids", None)


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The structural tags that vLLM parsed."""
    from vllm.v1.structured_output import backend_xgrammar

    tags, validate = [], backend_xgrammar.validate_xgrammar_grammar

    def count(params: Any) -> None:
        tags.append(params.structured_outputs.structural_tag)
        validate(params)

    monkeypatch.setattr(backend_xgrammar, "validate_xgrammar_grammar", count)
    return tags


def encoded(processor: Any, params: Any) -> bytes:
    """A request as the engine receives it."""
    from vllm.inputs import tokens_input
    from vllm.v1.serial_utils import MsgpackEncoder

    request = processor.process_inputs(
        "r", tokens_input([5, 6, 7]), params, ("generate",), arrival_time=0.0
    )
    return b"".join(bytes(part) for part in MsgpackEncoder().encode(request))


def usual(sampling: CritiqueSampling, closing_tokens: int) -> Any:
    """vLLM's own parameters of a critique."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams

    constraint, budget = None, sampling.thinking_tokens
    if sampling.constraint is not None:
        tag = structural_tag(END if budget else None, budget, sampling.constraint)
        constraint = StructuredOutputsParams(structural_tag=tag)
    return SamplingParams(
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        max_tokens=budget + closing_tokens + sampling.max_tokens,
        seed=sampling.seed,
        structured_outputs=constraint,
        logprobs=sampling.top_logprobs or None,
        detokenize=False,
        output_kind=RequestOutputKind.FINAL_ONLY,
    )


@pytest.mark.parametrize("name", SAMPLINGS)
def test_the_engine_receives_what_vllms_own_parameters_give(
    name: str, processor: Any, front_end: FrontEnd
) -> None:
    sampling = SAMPLINGS[name]
    prompt = TokenPrompt([5, 6, 7], closing_tokens=4 if sampling.thinking_tokens else 0)
    for seed in (sampling.seed, 11, None):  # the later ones are copies that are not verified
        one = replace(sampling, seed=seed)
        expected = encoded(processor, usual(one, prompt.closing_tokens))
        assert encoded(processor, front_end.params(one, prompt)) == expected
        assert (b"structural_tag" in expected) == (sampling.constraint is not None)


def test_a_constraint_is_parsed_once_for_an_engine(
    processor: Any, front_end: FrontEnd, parsed: list[str]
) -> None:
    prompt = TokenPrompt([5, 6, 7])
    for steps in (3, 4, 3, 4):
        sampling = CritiqueSampling(0.7, 0.9, 40, 1, StepList(steps, 0))
        for position in range(4):
            encoded(processor, front_end.params(sampling.of_critique(position), prompt))
    assert len(parsed) == len(set(parsed)) == 2
    # As vLLM's own parameters are: each time.
    for _ in range(2):
        encoded(processor, usual(sampling, 0))
    assert len(parsed) == 4
    # Another engine's limits may be others.
    again = FrontEnd(SimpleNamespace(), END, 100)  # type: ignore[arg-type]
    encoded(processor, again.params(sampling, prompt))
    assert len(parsed) == 5


def test_a_malformed_constraint_is_refused_each_time(processor: Any, front_end: FrontEnd) -> None:
    from vllm.exceptions import VLLMError

    sampling = CritiqueSampling(0.7, 0.9, 40, 1, Malformed())
    for position in range(3):
        params = front_end.params(sampling.of_critique(position), TokenPrompt([5]))
        with pytest.raises(VLLMError):
            encoded(processor, params)


def test_parameters_that_the_engine_does_not_take_are_refused(
    processor: Any, front_end: FrontEnd
) -> None:
    from vllm.exceptions import VLLMError

    allowed = CritiqueSampling(0.7, 0.9, 40, 1, StepList(3, 0))
    encoded(processor, front_end.params(allowed, TokenPrompt([5])))
    with pytest.raises(VLLMError, match="logprobs"):
        encoded(processor, front_end.params(replace(allowed, top_logprobs=999), TokenPrompt([5])))


def test_vllm_does_not_search_prompts_for_unknown_tokens(
    processor: Any, front_end: FrontEnd
) -> None:
    assert processor.renderer.validate_token_ids([1, 2]) is None
    assert "validate_token_ids" in vars(processor.renderer)


def test_vllm_searches_prompts_where_the_tokenizer_has_more_tokens_than_the_model(
    processor: Any, caplog: pytest.LogCaptureFixture
) -> None:
    from vllm.exceptions import VLLMError

    llm: Any = SimpleNamespace(renderer=processor.renderer)
    FrontEnd(llm, END, 10_000_000).close()
    assert "10000000" in caplog.text
    with pytest.raises(VLLMError):
        processor.renderer.validate_token_ids([10_000_000])


def test_environment_variables_are_cached_until_the_engine_ends(
    front_end: FrontEnd, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vllm import envs

    def level(value: str) -> str:
        monkeypatch.setenv("VLLM_LOGGING_LEVEL", value)
        return str(envs.VLLM_LOGGING_LEVEL)

    before = level("ERROR")
    assert level("INFO") == before
    front_end.close()
    assert level("ERROR") == "ERROR" != level("INFO")


def test_without_what_it_relies_on_vllm_does_the_work(
    processor: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vllm import envs

    monkeypatch.delattr(envs, "enable_envs_cache")
    monkeypatch.delattr(envs, "disable_envs_cache")
    front_end = FrontEnd(SimpleNamespace(renderer=object()), END, 100)  # type: ignore[arg-type]
    sampling = SAMPLINGS["list"]
    request = encoded(processor, front_end.params(sampling, TokenPrompt([5, 6, 7])))
    assert request == encoded(processor, usual(sampling, 0))
    front_end.close()


# The runner before vLLM's own front end, with the benchmark's stand-in for the engine.


@pytest.fixture
async def way(processor: Any) -> AsyncIterator[Any]:
    sys.path.insert(0, str(ROOT / "bench"))
    import frontend  # imports vLLM

    from capo_service.engine.prompt_encoder import PromptEncoder

    made = frontend.Way("ours", PromptEncoder(str(embedded.folder())), frontend.judge())
    try:
        yield made
    finally:
        await made.runner.end(lost=False)


async def asked(way: Any, constraint: Any = None) -> asyncio.Task[Any]:
    """A critique that the engine has received."""
    sampling = CritiqueSampling(0.7, 0.9, 40, 1, constraint or StepList(3, 0))
    task = asyncio.create_task(way.runner.complete("r", TokenPrompt([5, 6, 7]), sampling))
    await asyncio.sleep(0.05)
    return task


async def test_a_cancelled_critique_is_aborted_in_the_engine(way: Any) -> None:
    task = await asked(way)
    assert not task.done() and not way.engine.aborted
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert task.cancelled()
    [aborted] = way.engine.aborted
    assert aborted.startswith("r-")
    assert way.llm.get_num_unfinished_requests() == 0


async def test_one_critique_is_ended_early_and_returns_what_it_wrote(way: Any) -> None:
    task = await asked(way)
    await way.engine.answer(1, [5], ends=False)
    await way.runner.abort("r")
    completion = await asyncio.wait_for(task, 5)
    assert completion.finish_reason == "abort" and completion.completion_tokens == 1
    assert len(way.engine.aborted) == 1


async def test_an_engine_that_dies_and_a_malformed_constraint_have_errors_of_their_own(
    way: Any,
) -> None:
    from vllm.v1.engine.exceptions import EngineDeadError as VllmDeadError

    failed = await asked(way, Malformed())
    with pytest.raises(CritiqueFailedError):
        await failed
    task = await asked(way)
    way.llm.output_processor.propagate_error(VllmDeadError())
    with pytest.raises(EngineDeadError):
        await asyncio.wait_for(task, 5)


def test_the_benchmark_runs(tmp_path: Path) -> None:
    out = tmp_path / "frontend.json"
    subprocess.run(
        [sys.executable, ROOT / "bench" / "frontend.py", "--quick", "--out", out],
        check=True,
        timeout=300,
        capture_output=True,
    )
    report = json.loads(out.read_text())
    assert {"us_per_critique_2000_20", "speedup_2000_20", "growth_400_over_20"} <= report.keys()
    assert len(report["grid"]) == 2
