"""Think or vote? Step F1 of the testbed's judges against the tokens that their critiques take.

    .venv/bin/capo testbed --thinking                  (once)
    .venv/bin/python bench/thinking_testbed.py         (about ten minutes on two cores)

The judge that thinks is measured at several thinking budgets, and each judge without thoughts at
several k, on the same sampled rollouts of the policy to held-out questions, without references,
through the real service and vLLM. Writes build/bench/thinking_testbed.json.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from engines import LOGS, OUT
from rich.console import Console
from rich.table import Table
from transformers import AutoTokenizer, LlamaForCausalLM

from capo_client import CreditBatch, CreditClient
from capo_testbed import tasks
from capo_testbed.common import Solution, held_out_tasks
from capo_testbed.judge import sampled_rollouts
from capo_testbed.serving import serving
from capo_testbed.thinking_judge import BUDGETS
from capo_trainer.paths import testbed_folder

THINKER = "testbed-thinking"
OTHERS = ("testbed", "testbed-f80", "testbed-f60")
K_THINKING = (1, 4)
K_CHEAP = (1, 2, 4, 8, 16, 32)
COUNT = 400


@dataclass(frozen=True, slots=True)
class Row:
    """A judge at one budget and k, on all rollouts. `tokens`: of the judge, mean of a rollout.

    `truncated`: share of the thoughts that reached their budget. `valid`: share of the critiques
    that could be read.
    """

    judge: str
    budget: int
    k: int
    f1: float
    precision: float
    recall: float
    tokens: float
    truncated: float
    valid: float


def measure(count: int = COUNT, others: Sequence[str] = OTHERS) -> dict[str, Any]:
    """Measure the testbed's judges.

    Returns:
        `testbed_f1` and `tokens` of single critiques of the judge that thinks, by budget, and the
        table's `rows`.
    """
    rollouts = rollouts_of_policy(count)
    rows = [
        row
        for judge in (THINKER, *others)
        for row in _of_judge(judge, rollouts, BUDGETS if judge == THINKER else (0,))
    ]
    single = [row for row in rows if row.judge == THINKER and row.k == 1]
    wrong = [wrong for rollout in rollouts for wrong in rollout.wrong()]
    return {
        "rollouts": len(rollouts),
        "steps": len(wrong),
        "wrong_steps": sum(wrong),
        "testbed_f1": {str(row.budget): row.f1 for row in single},
        "tokens": {str(row.budget): row.tokens for row in single},
        "rows": [asdict(row) for row in rows],
    }


def rollouts_of_policy(count: int) -> list[Solution]:
    """Sampled answers of the policy to questions that no judge was trained on."""
    folder = testbed_folder() / "policy"
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    torch.manual_seed(1)
    policy = LlamaForCausalLM.from_pretrained(folder)
    return sampled_rollouts(policy, tokenizer, held_out_tasks(count))


def _of_judge(judge: str, rollouts: Sequence[Solution], budgets: Sequence[int]) -> Iterator[Row]:
    sent = [
        {
            "question": rollout.task.question,
            "response": rollout.response,
            "outcome": float(tasks.answer_of(rollout.response) == rollout.task.answer),
        }
        for rollout in rollouts
    ]
    with (
        serving(judge, LOGS / f"think-or-vote-{judge}.log", CAPO_NONCE_SECRET="bench") as url,
        CreditClient(url) as client,
    ):
        for budget in budgets:
            for k in K_THINKING if budget else K_CHEAP:
                voting = {"n": k, "early_stop": False, "thinking_tokens": budget, "seed": 1}
                got = client.credit(sent, deadline=3600, voting=voting, include=["critiques"])
                yield _row(judge, budget, k, rollouts, got.raise_for_errors())


def _row(judge: str, budget: int, k: int, rollouts: Sequence[Solution], got: CreditBatch) -> Row:
    hits = named = actual = 0
    for rollout, credit in zip(rollouts, got.credited, strict=True):
        pairs = list(zip((step.wrong for step in credit.steps), rollout.wrong(), strict=True))
        hits += sum(said and wrong for said, wrong in pairs)
        named += sum(said for said, _ in pairs)
        actual += sum(wrong for _, wrong in pairs)
    critiques = [each for credit in got.credited for each in credit.critiques or ()]
    return Row(
        judge,
        budget,
        k,
        f1=2 * hits / max(named + actual, 1),
        precision=hits / max(named, 1),
        recall=hits / max(actual, 1),
        tokens=got.usage.completion_tokens / len(rollouts),
        truncated=sum(each.thinking_truncated for each in critiques) / max(len(critiques), 1),
        valid=sum(each.valid for each in critiques) / max(len(critiques), 1),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rollouts", type=int, default=COUNT)
    options = parser.parse_args()
    found = measure(options.rollouts)
    OUT.mkdir(parents=True, exist_ok=True)
    path = OUT / "thinking_testbed.json"
    path.write_text(json.dumps(found, indent=2) + "\n")
    title = f"{found['rollouts']} rollouts, {found['wrong_steps']} wrong of {found['steps']} steps"
    columns = ("judge", "thinking", "k", "step F1", "precision", "recall", "tokens", "cut", "valid")
    table = Table(*columns, title=title)
    for row in found["rows"]:
        table.add_row(
            row["judge"],
            str(row["budget"]),
            str(row["k"]),
            *(f"{row[name]:.3f}" for name in ("f1", "precision", "recall")),
            f"{row['tokens']:.1f}",
            *(f"{row[name]:.2f}" for name in ("truncated", "valid")),
        )
    Console(width=110).print(table)
    print(f"written: {path}")


if __name__ == "__main__":
    main()
