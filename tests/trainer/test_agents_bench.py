"""bench/agents.py from start to end, with tiny models and a judge that knows the truth."""

from __future__ import annotations

import contextlib
import json
import re
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "bench"))

import agents as bench
import agents_judges
import agents_runs

from capo_service.engine.base import CritiqueSampling
from capo_testbed.agents import Turn, check
from capo_testbed.agents_models import AgentSizes
from capo_testbed.common import Round
from capo_testbed.judge import TEMPLATE
from kit_scripted import ScriptedEngine
from kit_service import serving, settings

TINY = AgentSizes(
    layers=1,
    judge_layers=2,
    hidden=32,
    policy_updates=5,
    judge_rounds=(Round(2, 4e-3, 4.0, 12), Round(2, 2e-3, 2.0, 12)),
    batch=8,
    held_out=6,
)
_STEP = re.compile(r"<step_(\d+) (.*?)</step_\1 (?:<seen (.*?)</seen )?", re.DOTALL)


def by_truth(prompt: str, sampling: CritiqueSampling) -> str:
    """A judge that asks the environment's checker, about what stands in its prompt."""
    question = re.split(r" \[|<step_0 ", prompt.split("\n", 1)[1], maxsplit=1)[0]
    turns = [Turn(text, observation) for _, text, observation in _STEP.findall(prompt)]
    wrong = [i for i, bad in enumerate(check(question, turns)) if bad]
    return json.dumps({"incorrect_steps": wrong})


@contextlib.contextmanager
def scripted(models: Path, log: Path) -> Iterator[str]:
    given = {
        "tokenizers": {"agents": str(models / "policy" / "tokenizer.json")},
        "template": str(TEMPLATE),
        "critique_style": "verdict",
    }
    with serving(ScriptedEngine(by_truth), settings(log.parent, **given)) as service:
        yield service.url


@pytest.mark.timeout(1200)
def test_a_judge_that_knows_the_truth_finds_every_wrong_turn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (agents_judges, agents_runs):
        monkeypatch.setattr(module, "served", scripted)
    arms = list(bench.ARMS)
    found = bench.measure(tmp_path, TINY, agents_runs.QUICK, 1, arms)
    judges = found["judged"]["judges"]
    assert found["turn_f1"]["mean"] == judges["trained judge, greedy"]["precision"] == 1.0
    assert judges["arithmetic checker"]["recall"] < judges["every turn"]["recall"] == 1.0
    for arm in arms:
        each = found[f"accuracy_{arm}"]
        assert each["low"] <= each["mean"] <= each["high"] and len(each["values"]) == 1
        assert found["runs"][arm]["uncredited"] == 0
    # The same rollouts of the same policy: the control has as many penalties at the first step.
    shares = [first_share(tmp_path, arm) for arm in ("turn_credit", "random_turns")]
    assert shares[0] == shares[1] > 0
    labelled = [json.loads(line) for line in (tmp_path / "labelled.jsonl").read_text().splitlines()]
    assert all(len(each["steps"]) == len(each["observations"]) for each in labelled)
    assert (
        asdict(TINY)["judge_rounds"][1]["updates"] == found["models"]["judge_rounds"][1]["updates"]
    )

    # Again: nothing is trained or measured twice, and other runs are not mixed in.
    def refused(*_: object) -> None:
        raise AssertionError("done twice")

    for module, name in ((agents_judges, "measure"), (agents_runs, "served")):
        monkeypatch.setattr(module, name, refused)
    again = bench.measure(tmp_path, TINY, agents_runs.QUICK, 1, arms)
    assert again["turn_f1"] == found["turn_f1"] and again["runs"] == found["runs"]
    with pytest.raises(SystemExit, match="of other models or of another length"):
        bench.measure(tmp_path, TINY, agents_runs.Scale(steps=3), 1, arms)


def first_share(folder: Path, arm: str) -> float:
    line = (folder / "runs" / arm / "seed-0" / "metrics.jsonl").read_text().splitlines()[1]
    record = json.loads(line)
    assert record["kind"] == "train" and record["step"] == 1
    return record["wrong_step_rate"]
