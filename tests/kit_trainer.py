"""A policy of a few thousand weights, a judge that says what it is told, and runs of the trainer."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from capo_service.engine.base import CritiqueSampling
from capo_trainer.recipe import Recipe, make_recipe
from kit import tokenizer
from kit_scripted import shown_steps

TESTS = Path(__file__).parent


def make_policy(folder: Path, tied: bool = True) -> Path:
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer("gpt2"), eos_token="<|endoftext|>", pad_token="<|endoftext|>"
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(wrapped),
            hidden_size=64,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=256,
            tie_word_embeddings=tied,
            pad_token_id=0,
            bos_token_id=None,
            eos_token_id=0,
            initializer_range=0.3,
        )
    )
    model.save_pretrained(folder)
    wrapped.save_pretrained(folder)
    return folder


def write_prompts(path: Path, count: int = 40) -> Path:
    lines = [{"question": f"What is {i} + {i}?", "answer": str(2 * i)} for i in range(count)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def outcome(response: str, answer: str) -> float:
    """A rule that gibberish meets about half the time."""
    return float("a" in response)


def undecided(response: str, answer: str) -> float | None:
    """Can read answers, and decide on no response."""
    return 1.0 if response == answer else None


class Seen:
    """An environment that answers each turn by how many it has seen, until one has `stop`."""

    def __init__(self, question: str, key: str) -> None:
        self.seen = 0

    def answer(self, text: str) -> str | None:
        self.seen += 1
        return None if "stop" in text else f"<|endoftext|>seen {self.seen}\n"


def all_wrong(question: str, steps: list[str]) -> list[bool]:
    return [True] * len(steps)


def by_letters(prompt: str, sampling: CritiqueSampling) -> str:
    """A judge that calls every step with an e or an o wrong: a rule that can be learnt."""
    wrong = [index for index, text in shown_steps(prompt) if set("eo") & set(text)]
    return f'{{"analysis": "by letters", "incorrect_steps": {wrong}}}'


def recipe_values(policy: Path, prompts: Path, output: Path, url: str | None) -> dict[str, Any]:
    return {
        "output": str(output),
        "steps": 4,
        "policy": {"model": str(policy)},
        "data": {
            "prompts": str(prompts),
            "verifier": "kit_trainer:outcome",
            "prompts_per_step": 4,
        },
        "sampling": {
            "rollouts_per_prompt": 4,
            "temperature": 1.0,
            "top_p": 0.95,
            "max_tokens": 12,
            "batch": 8,
        },
        "credit": (
            {"url": url, "tokenizer": "gpt2", "segment": "newline", "ready_within": 10}
            if url
            else {"reward": "outcome"}
        ),
        "algorithm": {"epochs": 2, "minibatch": 8, "micro_batch": 4, "kl": 0.01},
        "optimiser": {"learning_rate": 1e-3},
        "checkpoints": {"every": 1},
        "logging": {"tensorboard": False},
    }


def changed(values: dict[str, Any], **changes: Any) -> Recipe:
    """The recipe with `section__name=value` changed."""
    whole = json.loads(json.dumps(values))
    for name, value in changes.items():
        *sections, last = name.split("__")
        place = whole
        for section in sections:
            place = place.setdefault(section, {})
        place[last] = value
    return make_recipe(whole)


def records(output: Path, kind: str = "train") -> list[dict[str, Any]]:
    lines = (output / "metrics.jsonl").read_text().splitlines()
    return [record for record in map(json.loads, lines) if record["kind"] == kind]


def toml(values: dict[str, Any]) -> str:
    def write(value: Any) -> str:
        return json.dumps(value)

    top = [f"{k} = {write(v)}" for k, v in values.items() if not isinstance(v, dict)]
    for name, section in values.items():
        if isinstance(section, dict):
            top += [f"[{name}]", *(f"{k} = {write(v)}" for k, v in section.items())]
    return "\n".join(top) + "\n"


def command(recipe: Path, processes: int = 1) -> list[str]:
    ours = ["-m", "capo_client", "train", "--config", str(recipe)]
    if processes == 1:
        return [sys.executable, *ours]
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--cpu"]
    launch += ["--num_processes", str(processes), "--num_machines", "1"]
    return [*launch, "--mixed_precision", "no", "--dynamo_backend", "no", *ours]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(TESTS), "OMP_NUM_THREADS": "1"}


def launch(recipe: Path, processes: int = 1) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(recipe, processes), env=environment(), capture_output=True, text=True, check=False
    )
