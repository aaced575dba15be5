"""The work around the judge: alignment, rewards, and everything else that is no engine.

    make bench-core          # a table, and build/bench/core.json

Rollouts of 2,000 tokens and 20 steps, under a byte-level BPE tokenizer trained here: as ASCII,
as other text, and as text whose characters are split over tokens. Every figure is the median of
several runs in one process; `linear` compares the time per token at 2,000 and at 32,000.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from importlib import resources
from itertools import pairwise
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

import capo_wire as wire
from capo_service.api.parsing import parse
from capo_service.core import alignment, rewards, steps
from capo_service.core.prompt import PromptTemplate
from capo_service.core.vocabulary import TokenTable
from capo_service.engine.base import JudgePrompt
from capo_service.pipeline.assemble import credited
from capo_service.pipeline.critics import JudgeCritic
from capo_service.pipeline.critique_sampler import CritiqueSampler
from capo_service.pipeline.judge_prompt import JudgePrompter
from capo_service.pipeline.prepare import CritiquePolicy, Preparer

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
from kit_scripted import ScriptedEngine  # a test double, which no user needs

OUT = Path("build/bench/core.json")
TOKENS, STEPS = 2000, 20
SENTENCES = {
    "ascii": "We add 12 and 30 to get 42, then divide {} by 6 and carry the {} over. ",
    "unicode": "Wir addieren 12 und 30 zu 42 — außerdem gilt {} ≤ 7½, 因此 {} ist größer. ",
    "bytes": "Wir addieren 🏃 und 30 zu 42 ≈ {} ∑ {}, さらに ½ größer ∞. ",
}
TRAINED = ("ascii", "unicode")  # so that characters of `bytes` are split over tokens


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=200)
    runs = parser.parse_args().runs
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    tokenizer = train()
    table = TokenTable.from_json("bench", json.loads(tokenizer.to_str()))
    report: dict[str, Any] = {"tokens": TOKENS, "steps": STEPS, "runs": runs}
    report["machine"] = {"python": platform.python_version(), "cores": os.cpu_count()}
    for kind in SENTENCES:
        report[kind] = measure(kind, tokenizer, table, runs)
    report["tokens_per_s"] = report["ascii"]["tokens_per_s"]
    report["ms_per_rollout"] = report["ascii"]["ms_per_rollout"]
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text(json.dumps(report, indent=2) + "\n")
    show(report)


def measure(kind: str, tokenizer: Tokenizer, table: TokenTable, runs: int) -> dict[str, float]:
    text, ids = rollout(kind, tokenizer, TOKENS)
    long_text, long_ids = rollout(kind, tokenizer, 16 * TOKENS)

    def credit(text: str, ids: list[int]) -> list[float]:
        spans = steps.blank_line(text)
        owned = alignment.token_spans(alignment.align(table, ids, text), spans)
        penalties = [float(i % 5 == 0) for i in range(len(spans))]
        return rewards.token_rewards(
            rewards.step_rewards("capo", penalties, 1.0, w_whole=2.0, w_process=1.0),
            owned,
            len(ids),
        )

    assert len(credit(text, ids)) == len(ids)
    short = seconds(lambda: credit(text, ids), runs)
    long = seconds(lambda: credit(long_text, long_ids), max(runs // 10, 5))
    service, encode = pipeline(text, ids, table, tokenizer, runs)
    return {
        "tokens": len(ids),
        "steps": len(steps.blank_line(text)),
        "tokens_per_s": len(ids) / short,
        "linear": (long / len(long_ids)) / (short / len(ids)),
        "ms_per_rollout": service * 1000,
        "ms_prompt_encoding": encode * 1000,
    }


def pipeline(
    text: str, ids: list[int], table: TokenTable, tokenizer: Tokenizer, runs: int
) -> tuple[float, float]:
    """From the bytes of a request to the bytes of its answer, with a judge that takes no time.

    Encoding the judge's prompt is the engine's work (a bare engine does it too): it is measured
    apart, on the same prompt.
    """
    source = (resources.files("capo_service") / "pipeline" / "judge.j2").read_text("utf-8")
    template = PromptTemplate(source)
    answer = json.dumps({"analysis": "x" * 100, "incorrect_steps": [3, 7]})
    engine = ScriptedEngine(lambda prompt, sampling: answer)
    prompter = JudgePrompter(engine.encode, engine.context_length, template, b"secret")
    preparer = Preparer(prompter, {"bench": table}, CritiquePolicy())
    sampler = CritiqueSampler(JudgeCritic(engine, engine.slots))
    body = json.dumps(
        {
            "rollouts": [
                {"question": "What is it?", "response": text, "response_token_ids": ids,
                 "tokenizer": "bench", "outcome": 1.0}
            ],
            "voting": {"early_stop": False},
        }
    ).encode()  # fmt: skip

    async def once() -> bytes:
        batch = parse(body, 1)
        item = batch.items[0]
        assert isinstance(item, wire.Rollout)
        prepared = preparer.prepare(item, batch.options)
        ballots = await sampler.sample(prepared, batch.options.voting)
        outcome = wire.Outcome(value=1.0, source="caller")
        return credited(prepared, batch.options, outcome, ballots).model_dump_json().encode()

    prompt = template.render(
        question="What is it?", steps=[text[a:b] for a, b in steps.blank_line(text)],
        reference=None, nonce="b" * 7, style="brief", format="json",
    )  # fmt: skip
    segments = [text for text, _ in JudgePrompt(prompt.system, prompt.user).user]
    with asyncio.Runner() as runner:
        runner.run(engine.start())
        whole = seconds(lambda: runner.run(once()), runs)
    encode = seconds(
        lambda: [tokenizer.encode(s, add_special_tokens=False) for s in segments], runs
    )
    return whole, encode


def seconds(work: Callable[[], object], runs: int) -> float:
    work()
    taken = []
    for _ in range(runs):
        started = time.perf_counter()
        work()
        taken.append(time.perf_counter() - started)
    return statistics.median(taken)


def train() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator([SENTENCES[kind] for kind in TRAINED], trainer)
    return tokenizer


def rollout(kind: str, tokenizer: Tokenizer, tokens: int) -> tuple[str, list[int]]:
    """A text of about so many tokens, `STEPS` steps to every `TOKENS` of them, and its ids."""
    size = len(tokenizer.encode(SENTENCES[kind].format(1000, 7000)).ids)
    count, n_steps = -(-tokens // size), STEPS * tokens // TOKENS
    sentences = [SENTENCES[kind].format(1000 + n, 7000 + n) for n in range(count)]
    edges = [count * step // n_steps for step in range(n_steps + 1)]
    text = "\n\n".join("".join(sentences[i:j]) for i, j in pairwise(edges))
    return text, tokenizer.encode(text).ids


def show(report: dict[str, Any]) -> None:
    table = Table(title=f"{TOKENS} tokens, {STEPS} steps, median of {report['runs']} runs")
    table.add_column("")
    for kind in SENTENCES:
        table.add_column(kind, justify="right")
    for name, text, form in (
        ("tokens", "tokens of the rollout", "{:,}"),
        ("steps", "steps of the rollout", "{}"),
        ("tokens_per_s", "alignment and rewards, tokens/s on one core", "{:,.0f}"),
        ("linear", "time per token at 16 times the length, ratio", "{:.2f}"),
        ("ms_per_rollout", "all work but the engine's, ms per rollout", "{:.2f}"),
        ("ms_prompt_encoding", "encoding the judge's prompt (engine), ms", "{:.2f}"),
    ):
        table.add_row(text, *(form.format(report[kind][name]) for kind in SENTENCES))
    Console().print(table)
    print(f"written to {OUT}")


if __name__ == "__main__":
    main()
