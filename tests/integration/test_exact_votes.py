"""Exact votes of a real judge in vLLM: those of very many sampled critiques."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from capo_client import CreditClient
from capo_testbed import common, tasks
from capo_testbed.serving import serving
from capo_trainer import paths

pytestmark = pytest.mark.timeout(900)

JUDGE = "testbed-f60"
CRITIQUES = 64 * 32


@pytest.fixture(scope="module")
def rollouts() -> list[dict[str, Any]]:
    if not (paths.testbed_folder() / "judge-f60").is_dir():
        pytest.skip("the testbed's judge f60 is not installed: run capo testbed")
    chance = common.stream("exact")
    solved = [
        common.Solution(task, tasks.demonstrate(task, chance, tasks.DEMONSTRATIONS))
        for task in common.make_tasks(chance, 24)
    ]
    return [
        {"question": s.task.question, "response": s.response, "outcome": 1.0, "wrong": s.wrong()}
        for s in solved
    ]


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with serving(JUDGE, tmp_path_factory.mktemp("service") / "log") as found:
        yield found


def sent(rollouts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: r[name] for name in ("question", "response", "outcome")} for r in rollouts]


@pytest.mark.parametrize("sampling", [{}, {"temperature": 1.0, "top_p": 1.0}])
def test_shares_are_those_of_two_thousand_critiques(
    rollouts: list[dict[str, Any]], url: str, sampling: dict[str, float]
) -> None:
    exactly = {"exact": True, "method": "average", "n": 64, **sampling}
    with CreditClient(url, concurrency=8) as client:
        exact = client.credit(sent(rollouts), voting=exactly).raise_for_errors().credited
        unsure = sorted(
            range(len(rollouts)),
            key=lambda i: -sum(s.penalty * (1 - s.penalty) for s in exact[i].steps),
        )[:2]
        for number in unsure:
            assert exact[number].exact is not None and exact[number].exact.decided
            counts = [0] * len(exact[number].steps)
            for seed in range(CRITIQUES // 64):
                voting = {"n": 64, "early_stop": False, "seed": seed, **sampling}
                voting |= {"critique_style": "verdict"}
                [sampled] = client.credit(sent([rollouts[number]]), voting=voting).credited
                counts = [c + s.votes.wrong for c, s in zip(counts, sampled.steps, strict=True)]
            for count, step in zip(counts, exact[number].steps, strict=True):
                share = step.votes.share
                assert share is not None
                spread = math.sqrt(max(share * (1 - share), 1e-3) / CRITIQUES)
                assert abs(count / CRITIQUES - share) < 0.02 + 4 * spread


def test_most_rollouts_take_one_or_two_requests(rollouts: list[dict[str, Any]], url: str) -> None:
    with CreditClient(url) as client:
        batch = client.credit(sent(rollouts), voting={"exact": True}).raise_for_errors()
        again = client.credit(sent(rollouts), voting={"exact": True}).raise_for_errors()
    assert batch.usage.critiques_run < 3 * len(rollouts)
    assert all(each.exact is not None and each.exact.decided for each in batch.credited)
    wrong = [[step.wrong for step in each.steps] for each in batch.credited]
    assert wrong == [[step.wrong for step in each.steps] for each in again.credited]


def test_the_commands_ask_for_exact_votes(
    rollouts: list[dict[str, Any]], url: str, tmp_path: Path
) -> None:
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text("".join(json.dumps(each) + "\n" for each in sent(rollouts)))
    capo = [sys.executable, "-m", "capo_client"]
    subprocess.run(
        [*capo, "credit", source, "--out", target, "--exact", "--url", url, "--critiques"],
        check=True,
    )
    for line in target.read_text().splitlines():
        result = json.loads(line)
        assert all(0 <= step["votes"]["share"] <= 1 for step in result["steps"])
        assert all(0 < critique["share"] <= 1 for critique in result["critiques"])
    labelled = tmp_path / "labelled.jsonl"
    with labelled.open("w") as file:
        for each in rollouts:
            steps = each["response"].strip().split("\n\n")
            wrong = [number for number, is_wrong in enumerate(each["wrong"]) if is_wrong]
            entry = {"question": each["question"], "steps": steps, "wrong_steps": wrong}
            file.write(json.dumps(entry) + "\n")
    evaluated = subprocess.run(
        [*capo, "eval", labelled, "--exact", "--url", url, "--n", "4", "--no-plots", "--json"],
        check=True,
        capture_output=True,
        text=True,
    )
    line = json.loads(evaluated.stdout)["exact"]
    assert line["requests"] < 3 and 0 < line["step_f1"] <= 1


def test_the_benchmark_compares_exact_and_sampled_votes() -> None:
    sys.path.insert(0, str(Path(__file__).parents[2] / "bench"))
    import votes_exact

    found = votes_exact.measure(12, 1, (JUDGE,), ())
    assert {row["setting"] for row in found["rows"]} == set(votes_exact.SETTINGS)
    [claim] = found["claims"].values()
    assert claim["tokens_over_k8"] < 1
