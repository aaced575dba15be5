"""Part of bench/agents.py: which turns judges call wrong, against the environment's own truth."""

from __future__ import annotations

import contextlib
import json
import random
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from capo_client import CreditClient
from capo_client.cli.ports import free_port
from capo_service.engine.testbed import ARGUMENTS
from capo_testbed.agents import BUSY
from capo_testbed.agents_judge import judgeable
from capo_testbed.agents_models import Trajectory, held_out_tasks, load, sampled
from capo_testbed.serving import serving, until_ready

REPLICATES = 2000
K = 4  # critiques of a majority
TURNS = {"method": "turn"}  # also where a trajectory has one turn only
VOTES: dict[str, dict[str, Any]] = {
    "greedy": {"method": "greedy"},
    f"majority of {K}": {"n": K, "early_stop": False, "seed": 1},
}


@contextlib.contextmanager
def served(models: Path, log: Path) -> Iterator[str]:
    """A service of the trained judge, which serves the policy's tokenizer as `agents`."""
    settings = {
        "CAPO_CRITIQUE_STYLE": "verdict",
        "CAPO_PREFILL": "false",
        "CAPO_NONCE_SECRET": "testbed",
        "CAPO_ENGINE_ARGS": json.dumps(ARGUMENTS),
        "CAPO_TOKENIZERS": json.dumps({"agents": str(models / "policy")}),
    }
    with serving(str(models / "judge"), log, **settings) as url:
        yield url


@contextlib.contextmanager
def served_checker(log: Path) -> Iterator[str]:
    """A service of the arithmetic checker."""
    port = free_port()
    command = [sys.executable, "-m", "capo_client", "serve", "--engine", "symbolic"]
    command += ["--port", str(port)]
    url = f"http://127.0.0.1:{port}"
    with until_ready(command, url, "/health/ready", log, {"CAPO_RESULT_CACHE": "none"}):
        yield url


def measure(models: Path, out: Path, count: int) -> dict[str, Any]:
    """Turn precision, recall and F1 of the judges on the policy's trajectories.

    The trajectories are sampled by the policy before training, for held-out questions, and sent
    without a reference. They are also written to labelled.jsonl, which `capo eval` reads.
    """
    policy, tokenizer = load(models / "policy")
    trajectories = judgeable(sampled(policy, tokenizer, held_out_tasks(count), seed=1))
    sent = [each.body(tokenizer) for each in trajectories]
    write_labelled(trajectories, out / "labelled.jsonl")
    rows: dict[str, Any] = {}
    with served(models, out / "judge.log") as url:
        for name, voting in VOTES.items():
            rows[f"trained judge, {name}"] = row(trajectories, flags(url, sent, voting))
    with served_checker(out / "checker.log") as url:
        rows["arithmetic checker"] = row(trajectories, flags(url, sent, {"n": 1}))
    everything = [[True] * len(each.turns) for each in trajectories]
    rows["every turn"] = row(trajectories, everything)
    turns = sum(len(each.turns) for each in trajectories)
    return {
        "trajectories": len(trajectories),
        "turns": turns,
        "wrong_turns": sum(sum(each.wrong()) for each in trajectories),
        "judges": rows,
    }


def flags(url: str, sent: Sequence[dict[str, Any]], voting: dict[str, Any]) -> list[list[bool]]:
    """Which turns the service calls wrong."""
    with CreditClient(url) as client:
        got = client.credit(list(sent), deadline=3600, voting=voting, segment=TURNS)
    got.raise_for_errors()
    return [[step.wrong for step in credit.steps] for credit in got.credited]


def write_labelled(trajectories: Sequence[Trajectory], path: Path) -> None:
    """The trajectories and their wrong turns, in the form of labels that `capo eval` reads."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        for each in trajectories:
            line = {
                "question": each.task.question,
                "steps": [turn.text for turn in each.turns],
                "observations": [turn.observation or None for turn in each.turns],
                "wrong_steps": [i for i, wrong in enumerate(each.wrong()) if wrong],
            }
            file.write(json.dumps(line) + "\n")


def row(trajectories: Sequence[Trajectory], named: Sequence[Sequence[bool]]) -> dict[str, Any]:
    """Figures of one judge; F1 with its interval, by bootstrap over trajectories.

    `unlucky_named`: of the right turns to which the table did not answer, how many it calls wrong.
    """
    counts = []
    unlucky = unlucky_named = 0
    for each, said in zip(trajectories, named, strict=True):
        pairs = list(zip(said, each.wrong(), strict=True))
        counts.append(
            (sum(a and b for a, b in pairs), sum(a for a, _ in pairs), sum(b for _, b in pairs))
        )
        for turn, (a, b) in zip(each.turns, pairs, strict=True):
            if turn.observation == BUSY and not b:
                unlucky, unlucky_named = unlucky + 1, unlucky_named + a
    hits, said_wrong, wrong = (sum(column) for column in zip(*counts, strict=True))
    rng = random.Random(0)
    resampled = sorted(f1(rng.choices(counts, k=len(counts))) for _ in range(REPLICATES))
    return {
        "f1": f1(counts),
        "low": resampled[round(0.025 * (REPLICATES - 1))],
        "high": resampled[round(0.975 * (REPLICATES - 1))],
        "precision": hits / said_wrong if said_wrong else None,
        "recall": hits / max(wrong, 1),
        "unlucky": unlucky,
        "unlucky_named": unlucky_named / max(unlucky, 1),
    }


def f1(counts: Sequence[tuple[int, int, int]]) -> float:
    """F1 of (hits, turns that were named, turns that are wrong)."""
    hits, named, wrong = (sum(column) for column in zip(*counts, strict=True))
    return 2 * hits / max(named + wrong, 1)
