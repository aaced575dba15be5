"""The work of vLLM's front end for a critique, which runs in the service's event loop.

    make bench-frontend      # a table, and build/bench/frontend.json (five minutes on two cores)
    .venv/bin/python bench/frontend.py --quick

`AsyncLLM` itself, as the service makes it, with everything of it that runs in this process: input
processing, encoding of requests, decoding of the engine's messages, output processing, metrics,
generators. Only its connection is replaced: requests are encoded and dropped, and every request
gets the same critique, one token a message. No model is loaded. What the stand-in takes to write
its messages is subtracted; ZeroMQ's sending and receiving is not included.

Two ways, in turns: `straightforward` is what one writes who knows vLLM's documentation: the
constraint of each request as a string, text from vLLM, `generate` for each of the k critiques.
`ours` is the service's own `VllmRunner.complete`, which decodes the text itself. Both have the same
prompts, constraints, seeds and sampled tokens, and ask for the final output only.

Times are processor time of the event loop's thread, so other programs change them little. Every
figure is a median of the rounds.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import platform
import statistics
import time
from collections.abc import Awaitable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any
from unittest import mock

os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")

from frontend_engine import StandIn
from rich.console import Console
from rich.table import Table
from vllm import AsyncEngineArgs, SamplingParams, envs
from vllm.inputs import tokens_input
from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.core_client import EngineCoreClient

from capo_service.core.verdicts.step_list import ANALYSIS_TOKENS, StepList
from capo_service.engine import embedded
from capo_service.engine.base import CritiqueSampling, TokenPrompt
from capo_service.engine.prompt_encoder import PromptEncoder
from capo_service.engine.thinking import structural_tag
from capo_service.engine.vllm_config import engine_config
from capo_service.engine.vllm_front_end import FrontEnd
from capo_service.engine.vllm_runner import VllmRunner

OUT = Path("build/bench/frontend.json")
PROMPTS = (500, 2000, 8000)
STEPS = (5, 20, 100, 400)
K = 4
CONTEXT = 16384  # of the judge's configuration; the embedded model itself has half of that
SAMPLING = {"temperature": 0.7, "top_p": 0.9, "max_tokens": 2048}
ANALYSIS = "Step 3 adds the two numbers where the question asks for their difference, and "
CRITIQUES = {
    "verdict": '{"incorrect_steps": [3, 4]}',
    "brief": '{"analysis": "' + ANALYSIS * 3 + '", "incorrect_steps": [3, 4]}',
}
HEADLINE = "verdict"  # the style with the fewest tokens, so that the front end's own share is seen
WAYS = ("straightforward", "ours")


@dataclass(frozen=True)
class Cell:
    """What is asked: one style, prompts of one length, and rollouts of one number of steps."""

    style: str
    prompt_tokens: int
    steps: int

    @property
    def shape(self) -> StepList:
        return StepList(self.steps, ANALYSIS_TOKENS[self.style])  # type: ignore[index]


class Way:
    """One way to ask for critiques, with a front end of its own."""

    def __init__(self, name: str, encoder: PromptEncoder, arguments: AsyncEngineArgs) -> None:
        self.name = name
        self.engine = StandIn()
        with mock.patch.object(
            EngineCoreClient, "make_async_mp_client", lambda *a, **k: self.engine
        ):
            self.llm = AsyncLLM.from_vllm_config(engine_config(arguments))
        self.runner = VllmRunner(self.llm, encoder) if name == "ours" else None

    def ask(self, cell: Cell, ids: list[int], name: str, position: int) -> Awaitable[str]:
        if self.runner is None:
            return straightforward(self.llm, cell, ids, name, position)
        return ours(self.runner, cell, ids, name, position)

    def use_environment(self) -> None:
        """The cache of environment variables is this process's; only `ours` has it."""
        envs.disable_envs_cache() if self.runner is None else envs.enable_envs_cache()

    async def microseconds(
        self, cell: Cell, prompts: Sequence[list[int]], tokens: Sequence[int], text: str
    ) -> float:
        """Processor time for each of k critiques of so many rollouts."""
        self.use_environment()
        self.engine.seconds, critiques = 0.0, len(prompts) * K
        gc.collect()
        started = time.thread_time()
        tasks = [
            asyncio.create_task(self.ask(cell, ids, f"{number}-{position}", position))
            for number, ids in enumerate(prompts)
            for position in range(K)
        ]
        await self.engine.answer(critiques, tokens)
        texts = await asyncio.gather(*tasks)
        taken = time.thread_time() - started - self.engine.seconds
        assert set(texts) == {text}, (self.name, texts[0])
        return taken / critiques * 1e6


async def straightforward(
    llm: AsyncLLM, cell: Cell, ids: list[int], request: str, position: int
) -> str:
    final = None
    constraint = StructuredOutputsParams(structural_tag=structural_tag(None, 0, cell.shape))
    params = SamplingParams(
        **SAMPLING,
        seed=position,
        structured_outputs=constraint,
        output_kind=RequestOutputKind.FINAL_ONLY,
    )
    async for output in llm.generate(tokens_input(ids), params, request):
        final = output
    return final.outputs[0].text


async def ours(runner: VllmRunner, cell: Cell, ids: list[int], request: str, position: int) -> str:
    sampling = CritiqueSampling(**SAMPLING, seed=7, constraint=cell.shape)
    completion = await runner.complete(request, TokenPrompt(ids), sampling.of_critique(position))
    return completion.text


def prompt(encoder: PromptEncoder, tokens: int, number: int) -> list[int]:
    """Ids of ordinary text, another text for each rollout."""
    text = "".join(
        f"We add {number + 12} and {line} to get {number + 12 + line}, then divide by 6.\n"
        for line in range(tokens // 12)
    )
    return encoder._trusted.encode(text, add_special_tokens=False).ids[:tokens]


def judge() -> AsyncEngineArgs:
    """The embedded judge, with a context long enough for the prompts; no weights are loaded."""
    return AsyncEngineArgs(
        model=str(embedded.folder()),
        dtype="bfloat16",
        kv_cache_memory_bytes=1 << 30,
        max_model_len=CONTEXT,
        hf_overrides={"max_position_embeddings": CONTEXT},
    )


def first_critique(ours: Way, steps: int, runs: int) -> float:
    """What the first critique with a number of steps takes for its constraint, in microseconds."""
    config = ours.llm.vllm_config
    taken = []
    for _ in range(runs):
        structural_tag.cache_clear()
        front_end = FrontEnd(ours.llm, ours.runner._encoder.thought_end, 0)
        sampling = CritiqueSampling(**SAMPLING, constraint=StepList(steps, 60))
        started = time.thread_time()
        params = front_end.params(sampling, TokenPrompt([1]))
        params.verify(
            config.model_config,
            config.speculative_config,
            config.structured_outputs_config,
            ours.llm.renderer.tokenizer,
        )
        taken.append(time.thread_time() - started)
    return statistics.median(taken) * 1e6


def submission(ours: Way, ids: list[int], runs: int) -> float:
    """Processing the input of a critique after the first, in microseconds.

    A single submission for k critiques would save it, and no more, for k - 1 of them.
    """
    sampling = CritiqueSampling(**SAMPLING, seed=7, constraint=StepList(20, 0))
    taken = []
    for _ in range(runs):
        started = time.thread_time()
        params = ours.runner._front_end.params(sampling, TokenPrompt(ids))
        ours.llm.input_processor.process_inputs("r", tokens_input(ids), params, ("generate",))
        taken.append(time.thread_time() - started)
    return statistics.median(taken) * 1e6


async def measure(cells: Sequence[Cell], rounds: int, rollouts: int) -> dict[str, Any]:
    encoder = PromptEncoder(str(embedded.folder()))
    arguments = judge()
    ways = [Way(name, encoder, arguments) for name in WAYS]
    tokens = {style: sampled(encoder, text) for style, text in CRITIQUES.items()}
    prompts = {
        n: [prompt(encoder, n, number) for number in range(rollouts)]
        for n in sorted({cell.prompt_tokens for cell in cells})
    }
    gc.freeze()  # as the service does after its start
    grid = []
    for cell in cells:
        text, found = CRITIQUES[cell.style], {name: [] for name in WAYS}
        for round_ in range(-1, rounds):  # the first of each way is not counted
            for way in ways if round_ % 2 else reversed(ways):
                taken = await way.microseconds(
                    cell, prompts[cell.prompt_tokens], tokens[cell.style], text
                )
                if round_ >= 0:
                    found[way.name].append(taken)
        grid.append(row(cell, len(tokens[cell.style]), found))
    [mine] = [way for way in ways if way.name == "ours"]
    runs = 2 * rounds + 1
    mine.use_environment()
    report = {
        "grid": grid,
        "first_critique_us": {str(n): round(first_critique(mine, n, runs), 1) for n in STEPS},
        "submission_us": {
            str(n): round(submission(mine, prompts[n][0], 20 * runs), 1) for n in prompts
        },
    }
    for way in ways:
        if way.runner is not None:
            await way.runner.end(lost=False)
        with suppress(Exception):
            way.llm.shutdown()
    return report


def sampled(encoder: PromptEncoder, text: str) -> list[int]:
    ids = encoder._trusted.encode(text, add_special_tokens=False).ids
    return [*ids, encoder._trusted.token_to_id("<|im_end|>")]


def row(cell: Cell, tokens: int, found: dict[str, list[float]]) -> dict[str, Any]:
    before, after = (statistics.median(found[name]) for name in WAYS)
    return {
        "style": cell.style,
        "prompt_tokens": cell.prompt_tokens,
        "steps": cell.steps,
        "output_tokens": tokens,
        "straightforward_us": round(before, 1),
        "ours_us": round(after, 1),
        "speedup": round(before / after, 2),
        "straightforward_critiques_per_s": round(1e6 / before),
        "ours_critiques_per_s": round(1e6 / after),
    }


def headlines(grid: list[dict[str, Any]]) -> dict[str, float]:
    """Figures by name; those of cells that were not measured are left out."""
    by = {(each["style"], each["prompt_tokens"], each["steps"]): each for each in grid}
    found: dict[str, float] = {}
    for style in CRITIQUES:
        suffix = "" if style == HEADLINE else f"_{style}"
        one, long = by.get((style, 2000, 20)), by.get((style, 2000, 400))
        if one:
            found[f"us_per_critique_2000_20{suffix}"] = one["ours_us"]
            found[f"straightforward_us_2000_20{suffix}"] = one["straightforward_us"]
            found[f"speedup_2000_20{suffix}"] = one["speedup"]
        if one and long:
            growth = long["ours_us"] / one["ours_us"]
            found[f"growth_400_over_20{suffix}"] = round(growth, 2)
            growth = long["straightforward_us"] / one["straightforward_us"]
            found[f"straightforward_growth_400_over_20{suffix}"] = round(growth, 2)
    return found


def show(report: dict[str, Any]) -> None:
    table = Table(title=f"microseconds per critique, medians of {report['rounds']} rounds")
    for name in ("style", "tokens of prompt", "steps", "sampled"):
        table.add_column(name)
    for name in ("straightforward", "ours", "speedup", "its critiques/s", "our critiques/s"):
        table.add_column(name, justify="right")
    for each in report["grid"]:
        table.add_row(
            *(str(each[name]) for name in ("style", "prompt_tokens", "steps", "output_tokens")),
            *(f"{each[name]:.0f}" for name in ("straightforward_us", "ours_us")),
            f"{each['speedup']:.1f}",
            *(f"{each[f'{name}_critiques_per_s']:,}" for name in WAYS),
        )
    Console(width=110).print(table)
    print("a constraint's first critique, in addition, by steps:", report["first_critique_us"])
    print("input processing of ours, by tokens of the prompt:", report["submission_us"])
    for name in sorted(set(report) & set(headlines(report["grid"]))):
        print(f"{name}: {report[name]}")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--rollouts", type=int, default=16, help="at once, each with 4 critiques")
    parser.add_argument("--quick", action="store_true", help="few cells, 3 rounds of 4 rollouts")
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()
    if args.quick:
        args.rounds, args.rollouts = 3, 4
        cells = [Cell("verdict", 2000, steps) for steps in (20, 400)]
    else:
        cells = [Cell(*each) for style in CRITIQUES for each in grid_of(style)]
    report: dict[str, Any] = {
        "ways": {
            "straightforward": "a tag as a string per request, detokenize on, generate() for each",
            "ours": "the service's VllmRunner.complete",
        },
        "headline_style": HEADLINE,
        "unit": "microseconds of the event loop's processor time per critique",
        "rounds": args.rounds,
        "critiques_at_once": args.rollouts * K,
        "machine": {"python": platform.python_version(), "cores": os.cpu_count()},
        "vllm": next(version(name) for name in ("vllm-cpu", "vllm") if installed(name)),
    }
    report |= asyncio.run(measure(cells, args.rounds, args.rollouts))
    report |= headlines(report["grid"])
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(report, indent=2) + "\n")
    show(report)
    print(f"written to {args.out}")


def grid_of(style: str) -> list[tuple[str, int, int]]:
    return [(style, tokens, steps) for tokens in PROMPTS for steps in STEPS]


def installed(name: str) -> bool:
    try:
        return bool(version(name))
    except ImportError:
        return False


if __name__ == "__main__":
    main()
