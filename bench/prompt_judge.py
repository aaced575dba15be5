"""A testbed judge trained on each form of the prompt: long tags, and short heads.

    .venv/bin/python bench/prompt_judge.py tags     # and `heads`; one thread each

Both start from the same policy and see the same rollouts in the same order for the same number of
updates. Writes build/bench/prompt_judge_FORM.json: step F1 by update on held-out rollouts, with a
bootstrap interval at the end.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from transformers import AutoTokenizer, LlamaForCausalLM, PreTrainedTokenizerFast

from capo_service.core.prompt import nonce
from capo_service.core.step_code import step_code
from capo_testbed import models, tasks
from capo_testbed.common import Solution, held_out_tasks, make_tasks, sample, stream
from capo_testbed.judge import _Lesson, _lessons, f1_of
from capo_testbed.models import TrainingExample

OUT = Path("build/bench")
FOLDER = Path.home() / ".cache/capo-credit/testbed"
SECRET = b"testbed"
FORMS = ("tags", "heads")


def pieces(form: str, question: str, steps: Sequence[str]) -> list[str]:
    """What stands before each step, and after the last one."""
    if form == "tags":
        code = nonce(SECRET, question)
        opened = [f"\n<step_{i} {code}>\n" for i in range(len(steps))]
        closed = [f"\n</step_{i} {code}>" for i in range(len(steps))]
        return [opened[0], *map("".join, zip(closed, opened[1:], strict=False)), f"{closed[-1]}\n"]
    code = step_code(SECRET, question, [question, *steps])
    return [f"\n[{i} {code}]\n" for i in range(len(steps))] + [f"\n[end {code}]\n"]


def example(form: str, tokenizer: PreTrainedTokenizerFast, rollout: Solution) -> TrainingExample:
    """The prompt of a form and the right verdict; what is learnt at a step is learnt at its end."""

    def encode(text: str) -> list[int]:
        return list(tokenizer.encode(text, add_special_tokens=False))

    lessons: list[_Lesson] = _lessons(tokenizer, rollout)
    between = pieces(form, rollout.task.question, tasks.split(rollout.response))
    ids = encode(f"<|system|>Name the wrong steps.<|user|>{rollout.task.question}{between[0]}")
    marks: list[tuple[int, bool]] = []
    taught: list[tuple[int, int]] = []
    links: list[tuple[int, int]] = []
    before = 0
    for index, (step, wrong) in enumerate(zip(lessons, rollout.wrong(), strict=True)):
        start, end = len(ids), len(ids) + len(step.ids)
        ids += step.ids + encode(between[index + 1])
        links.append((end, before))
        before = min(index + 1, 15) if wrong else before
        marks += [(start + i, not could) for i, could in enumerate(step.could)]
        marks.append((end, wrong))
        taught += [(start + i, token) for i, token in enumerate(step.taught)]
    ids += encode("?<|assistant|>")
    verdict = encode(rollout.verdict())
    whole = [*ids, *verdict, tokenizer.eos_token_id]
    return TrainingExample(whole, len(ids), marks, taught, links)


def rollouts(seed: str, count: int) -> list[Solution]:
    rng = stream(seed)
    asked = held_out_tasks(count) if seed == "held out" else make_tasks(rng, count)
    kinds = [tasks.ALL_KINDS if rng.random() < 0.85 else tasks.NO_SLIPS for _ in asked]
    return [Solution(t, tasks.demonstrate(t, rng, k)) for t, k in zip(asked, kinds, strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("form", choices=FORMS)
    parser.add_argument("--updates", type=int, default=350)
    parser.add_argument("--rollouts", type=int, default=6000)
    parser.add_argument("--tested", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(given.seed)
    tokenizer = AutoTokenizer.from_pretrained(FOLDER / "policy", padding_side="left")
    model = models.deepened(LlamaForCausalLM.from_pretrained(FOLDER / "policy").float(), 2)
    learnt = [example(given.form, tokenizer, r) for r in rollouts(f"{given.seed}", given.rollouts)]
    tested = rollouts("held out", given.tested)
    asked = [example(given.form, tokenizer, rollout) for rollout in tested]
    prompts = [each.ids[: each.start] for each in asked]
    found: list[dict[str, float]] = []
    started = time.process_time()

    def texts() -> list[str]:
        model.eval()
        return sample(model, tokenizer, prompts, temperature=0.0, max_new_tokens=24)

    def after(update: int, loss: float) -> None:
        if update % 50 == 0:
            score = f1_of(texts(), tested)
            found.append({"update": update, "f1": score, "loss": loss})
            seconds = time.process_time() - started
            print(f"{given.form} {update}: F1 {score:.3f}, {seconds:.0f} s", flush=True)

    def endless() -> Iterator[TrainingExample]:
        return itertools.cycle(learnt)

    models.train(
        model, endless, updates=given.updates, batch=32, learning_rate=4e-3, stress=4.0, probed=6,
        pad=tokenizer.pad_token_id, after=after,
    )  # fmt: skip
    final = list(zip(texts(), tested, strict=True))
    rng = random.Random(0)
    draws = sorted(f1_of(*zip(*rng.choices(final, k=len(final)), strict=True)) for _ in range(2000))
    result = {
        "form": given.form, "seed": given.seed, "updates": given.updates,
        "f1": f1_of(*zip(*final, strict=True)), "interval": [draws[50], draws[-51]],
        "prompt_tokens": sum(map(len, prompts)) / len(prompts), "by_update": found,
        "cpu_seconds": time.process_time() - started,
        "hits": [sorted(map(int, _numbers(text))) for text, _ in final],
    }  # fmt: skip
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / f"prompt_judge_{given.form}.json").write_text(json.dumps(result, indent=2) + "\n")
    print({key: value for key, value in result.items() if key not in ("hits", "by_update")})


def _numbers(text: str) -> list[str]:
    return "".join(c if c.isdigit() else " " for c in text).split()


if __name__ == "__main__":
    main()
