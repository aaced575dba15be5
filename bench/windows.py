"""Long rollouts judged as a whole and in windows: recall by position of the error, and cost.

    make bench-windows DATA=FOLDER      # a table, and build/bench/windows.json

DATA is a folder with big_bench_mistake_multistep_arithmetic.jsonl; by default the one beside the
repository. A rollout is several solutions without a mistake that the arithmetic checker confirms,
one after the other, with one solution among them whose labelled mistake the checker confirms; each
begins with the text of its problem.

Two judges. `checker`: the arithmetic checker answers in place of a model, from the steps that the
prompt shows, so that what is lost is lost by the windows and not by a judge. With
JUDGES=checker,embedded also the 135M judge, whose verdicts say little; its penalties are of voting
method average. That takes longer than ten minutes on two cores.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from engines import OUT, service
from rich.console import Console
from rich.table import Table

from capo_service.core.arithmetic import false_equations
from capo_service.engine import embedded
from capo_service.engine.base import (
    Completion,
    CritiqueSampling,
    EncodedPrompt,
    JudgePrompt,
    TokenPrompt,
)
from capo_service.engine.prompt_encoder import PromptEncoder

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from kit_scripted import ScriptedEngine, shown_steps  # a test double, not part of the package
from kit_service import serving, settings

DATA = Path(os.environ.get("DATA", Path(__file__).parents[2] / "shared" / "data"))
FILE = "big_bench_mistake_multistep_arithmetic.jsonl"
PROBLEMS, ROLLOUTS, SEED = 16, 60, 7
CONTEXTS = {"whole": 8192, "windows": 2048}


@dataclass
class Long:
    """A long rollout, its steps, and the one that is wrong."""

    question: str
    steps: list[str]
    wrong: int

    def body(self) -> dict[str, Any]:
        return {"question": self.question, "response": "\n\n".join(self.steps), "outcome": 0.0}

    @property
    def third(self) -> int:
        """Where the error is: in the first, the second or the last third."""
        return 3 * self.wrong // len(self.steps)


def long_rollouts() -> list[Long]:
    records = [json.loads(line) for line in (DATA / FILE).read_text("utf-8").splitlines()]
    right, wrong = [], []
    for record in records:
        steps = [" ".join(step.split()) for step in record["steps"]]
        false = [i for i, step in enumerate(steps) if false_equations(step)]
        if not false and record["mistake_index"] is None:
            right.append((record["input"], steps))
        elif false == [record["mistake_index"]]:
            wrong.append((record["input"], steps, false[0]))
    chance = random.Random(SEED)
    rollouts = []
    for number in range(ROLLOUTS):
        problem, steps, at = wrong[number % len(wrong)]
        place = PROBLEMS * number // ROLLOUTS
        parts = chance.sample(right, min(PROBLEMS - 1, len(right)))
        before, after = parts[:place], parts[place:]
        all_steps = [step for given in before for step in (f"Problem: {given[0]}", *given[1])]
        wrong_step = len(all_steps) + 1 + at
        all_steps += [f"Problem: {problem}", *steps]
        all_steps += [step for given in after for step in (f"Problem: {given[0]}", *given[1])]
        rollouts.append(Long("Solve all of the problems.", all_steps, wrong_step))
    return rollouts


class Checker(ScriptedEngine):
    """The arithmetic checker as the judge, in a context of real tokens."""

    def __init__(self, context: int) -> None:
        super().__init__(context_length=context)
        self._encoder = PromptEncoder(str(embedded.folder()))
        self._texts: dict[int, str] = {}

    def encode(self, prompt: JudgePrompt) -> TokenPrompt:  # type: ignore[override]
        encoded = self._encoder.encode(prompt)
        self._texts[id(encoded.ids)] = "".join(text for text, _ in prompt.user)
        return encoded

    async def complete(
        self, request: str, prompt: EncodedPrompt, sampling: CritiqueSampling
    ) -> Completion:
        assert isinstance(prompt, TokenPrompt)
        shown = shown_steps(self._texts[id(prompt.ids)])
        wrong = [number for number, text in shown if false_equations(text)]
        text = json.dumps({"analysis": "checked", "incorrect_steps": wrong})
        await asyncio.sleep(0)
        return Completion(
            text[len(prompt.opening) :], "stop", len(prompt.ids), completion_tokens=len(text) // 3
        )


@contextmanager
def checker(context: int) -> Iterator[str]:
    OUT.mkdir(parents=True, exist_ok=True)
    given = settings(OUT, max_characters=400_000)
    with serving(Checker(context), given) as running:
        yield running.url


@contextmanager
def model(context: int) -> Iterator[str]:
    arguments = json.dumps({"max_model_len": context})
    with service("verdict", CAPO_ENGINE_ARGS=arguments) as url:
        yield url


def measure(url: str, rollouts: list[Long], voting: dict[str, Any]) -> dict[str, Any]:
    results = []
    for first in range(0, len(rollouts), 20):
        body = {
            "rollouts": [rollout.body() for rollout in rollouts[first : first + 20]],
            "voting": voting,
            "deadline_ms": 1_800_000,
        }
        results += httpx.post(f"{url}/credit", json=body, timeout=None).json()["results"]
    found, asked = [0, 0, 0], [0, 0, 0]
    other = other_steps = 0.0
    for rollout, result in zip(rollouts, results, strict=True):
        if result["status"] != "ok":
            raise RuntimeError(result["error"]["detail"])
        penalties = [step["penalty"] for step in result["steps"]]
        asked[rollout.third] += 1
        found[rollout.third] += penalties[rollout.wrong]
        other += sum(penalties) - penalties[rollout.wrong]
        other_steps += len(penalties) - 1
    usage = [result["usage"] for result in results]
    count = len(results)
    return {
        "windows": sum(result["windows"] for result in results) / count,
        "penalty_of_the_error_by_third": [a / max(b, 1) for a, b in zip(found, asked, strict=True)],
        "penalty_of_other_steps": other / other_steps,
        "prompt_tokens": sum(each["prompt_tokens"] for each in usage) / count,
        "critiques": sum(each["critiques_run"] for each in usage) / count,
    }


def main() -> None:
    rollouts = long_rollouts()
    lengths = [len(rollout.steps) for rollout in rollouts]
    told: dict[str, Any] = {
        "rollouts": len(rollouts),
        "steps": sum(lengths) / len(lengths),
        "contexts": CONTEXTS,
    }
    table = Table(
        "judge",
        "",
        "windows",
        "penalty of the error: first, second, last third",
        "of other steps",
        "prompt tokens",
        "critiques",
    )
    average = {"method": "average", "n": 4, "seed": 1}
    runs = [("checker", checker, rollouts, {"n": 1})]
    if "embedded" in os.environ.get("JUDGES", "checker"):
        runs.append(("embedded", model, rollouts[:: ROLLOUTS // 12], average))
    for judge, start, some, voting in runs:
        for how, context in CONTEXTS.items():
            with start(context) as url:
                line = measure(url, some, voting)
            told[f"{judge}, {how}"] = line | {"rollouts": len(some)}
            thirds = ", ".join(f"{each:.2f}" for each in line["penalty_of_the_error_by_third"])
            table.add_row(
                judge,
                how,
                f"{line['windows']:.1f}",
                thirds,
                f"{line['penalty_of_other_steps']:.3f}",
                f"{line['prompt_tokens']:.0f}",
                f"{line['critiques']:.1f}",
            )
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / "windows.json").write_text(json.dumps(told, indent=2) + "\n")
    Console(width=130).print(table)


if __name__ == "__main__":
    main()
