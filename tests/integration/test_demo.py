"""`capo demo` as a user runs it: the judge that comes with the package, on the real vLLM."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

import capo_wire as wire
from capo_client import CreditClient, Rollout
from capo_client.cli import demo
from capo_testbed import common, tasks
from capo_testbed.serving import serving

STEP_F1 = 0.9  # 0.95 when it was trained, on 400 other stories; each vote of four samples


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    log = tmp_path_factory.mktemp("service") / "log"
    with serving("demo", log, CAPO_CANARY_SECONDS="1") as url:
        yield url


def test_the_demo_finds_the_wrong_steps_and_leaves_the_right_ones_alone() -> None:
    """As a process, with the service that it starts itself."""
    command = [sys.executable, "-m", "capo_client", "demo", "--json"]
    said = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    assert said.returncode == 0, said.stderr
    shown = json.loads(said.stdout)
    assert shown["model"] == "demo"
    examples = demo.load_examples("demo")
    assert len(examples) == len(shown["results"]) == 4
    for example, result in zip(examples, shown["results"], strict=True):
        found = [step["index"] for step in result["steps"] if step["wrong"]]
        assert found == example.known_wrong, example.id
        right = example.id in ("right", "lucky")
        assert result["outcome"]["value"] == float(right), example.id
        # Equation 1 with the default weights, for every token that was sampled.
        rewards = result["token_rewards"]
        assert len(rewards) == len(example.response_token_ids)
        expected: list[float] = []
        for step in result["steps"]:
            first, end = step["token_span"]
            penalty = 1.0 if step["index"] in example.known_wrong else 0.0
            expected += [2.0 * right - penalty] * (end - first)
        assert rewards == expected


def test_the_demos_judge_is_as_good_as_its_documentation_says(url: str) -> None:
    rng = common.stream("demo judge")
    kinds = (tasks.DEMONSTRATIONS, tasks.ALL_KINDS)
    solved = [
        common.Solution(task, tasks.demonstrate(task, rng, kinds[i % 2]))
        for i, task in enumerate(common.make_tasks(rng, 200))
    ]
    rollouts = [Rollout(question=s.task.question, response=s.response, outcome=0.0) for s in solved]
    with CreditClient(url) as client:
        batch = client.credit(rollouts, voting={"n": 4})
    hits = named = actual = 0
    for solution, result in zip(solved, batch.raise_for_errors().credited, strict=True):
        assert isinstance(result, wire.Credited)
        wrong = {i for i, each in enumerate(solution.wrong()) if each}
        found = {step.index for step in result.steps if step.wrong}
        hits, named, actual = hits + len(wrong & found), named + len(found), actual + len(wrong)
    f1 = 2 * hits / (named + actual)
    print(f"step F1 {f1:.3f} of {actual} wrong steps in {len(solved)} stories")
    assert f1 >= STEP_F1


def test_text_that_the_demos_judge_cannot_hold_is_refused_in_its_place(url: str) -> None:
    long, short = "1 + 1 = 2\n\n" * 300, "12 + 8 = 20\n\nThe answer is \\boxed{20}."
    story = "Ann has 12 coins. Ann wins 8. How many coins now?"
    with CreditClient(url) as client:
        batch = client.credit(
            [Rollout(question=story, response=text, outcome=1.0) for text in (long, short)]
        )
    refused, credited = batch
    assert isinstance(refused, wire.Failed), refused
    assert refused.error.type.endswith("context-exceeded") and "1024" in refused.error.detail
    assert isinstance(credited, wire.Credited)


def test_its_probes_are_stories_that_it_can_read(url: str) -> None:
    found: dict[str, float] = {}
    until = time.monotonic() + 60
    while len(found) < 2 and time.monotonic() < until:
        text = httpx.get(f"{url}/metrics", timeout=10).text
        pattern = r'capo_canary_accuracy_ratio\{worth="(\w+)"\} ([\d.]+)'
        found = {kind: float(value) for kind, value in re.findall(pattern, text)}
        time.sleep(0.5)
    assert set(found) == {"good", "bad"} and min(found.values()) >= 0.75, found


def test_the_weights_are_small() -> None:
    from capo_service.engine import testbed

    assert sum(path.stat().st_size for path in testbed.folder("demo").iterdir()) < 4_000_000


def test_nothing_is_written_into_the_package(url: str) -> None:
    from capo_service.engine import testbed

    names = {path.name for path in Path(testbed.folder("demo")).iterdir()}
    assert names == {
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "judge.j2",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }
