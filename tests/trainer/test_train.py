"""The loop against a real service over HTTP, whose judge is scripted; the policy is a real, tiny one."""

from __future__ import annotations

import contextlib
import json
import math
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState

import capo_wire as wire
import kit_trainer
from capo_trainer import ppo_update as learning
from capo_trainer.errors import (
    PromptFileError,
    RecipeError,
    RewardServiceError,
    TokenizerNotServedError,
    TrainingStopped,
)
from capo_trainer.train import train
from kit_scripted import ScriptedEngine
from kit_service import Service, serving, settings, wait_for_lines
from kit_trainer import by_letters, changed, records

pytestmark = pytest.mark.usefixtures("fresh_accelerate")
SAME = ("loss", "grad_norm", "kl", "entropy", "accuracy", "wrong_step_rate", "mean_tokens")


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return kit_trainer.make_policy(tmp_path_factory.mktemp("policy"))


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("tokenizers")
    with serving(ScriptedEngine(by_letters), settings(folder)) as running:
        yield running


@pytest.fixture
def values(policy: Path, service: Service, tmp_path: Path) -> dict:
    prompts = kit_trainer.write_prompts(tmp_path / "prompts.jsonl")
    return kit_trainer.recipe_values(policy, prompts, tmp_path / "run", service.url)


def rollouts(output: Path) -> list[tuple[int, str]]:
    lines = (output / "rollouts.jsonl").read_text().splitlines()
    return [(record["step"], record["response"]) for record in map(json.loads, lines)]


def assert_same(found: list[dict], wanted: list[dict], tolerance: float = 1e-5) -> None:
    assert [r["step"] for r in found] == [r["step"] for r in wanted]
    for one, other in zip(found, wanted, strict=True):
        for name in SAME:
            assert one[name] == pytest.approx(other[name], rel=tolerance, abs=tolerance), name


def test_a_run_learns_logs_and_leaves_a_policy(values: dict, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    recipe = changed(
        values,
        steps=3,
        logging__tensorboard=True,
        evaluation__every=2,
        evaluation__prompts=values["data"]["prompts"],
        evaluation__limit=5,
        evaluation__samples=2,
    )
    target = train(recipe)
    steps = records(recipe.output)
    assert [r["step"] for r in steps] == [1, 2, 3]
    for record in steps:
        assert record["rollouts"] == 16 and math.isfinite(record["loss"])
        assert 0 < record["wrong_step_rate"] < 1 and record["judge_completion_tokens"] > 0
        assert record["grad_norm"] > 0 and record.get("uncredited", 0) == 0
    assert steps[-1]["learning_rate"] < steps[0]["learning_rate"]
    seen = records(recipe.output, "evaluation")
    assert [r["step"] for r in seen] == [0, 2, 3]
    assert all(0 <= r["greedy_wrong_step_rate"] <= 1 and r["sampled_unknown"] == 0 for r in seen)
    assert list((recipe.output / "tensorboard").iterdir())
    kept = [
        json.loads(line) for line in (recipe.output / "rollouts.jsonl").read_text().splitlines()
    ]
    assert [each["step"] for each in kept] == [1] * 4 + [2] * 4 + [3] * 4
    for each in kept:
        credit = wire.Credited.model_validate(each["credit"])
        assert credit.steps[-1].span[1] == len(each["response"]) and credit.critiques
    before = AutoModelForCausalLM.from_pretrained(values["policy"]["model"]).state_dict()
    after = AutoModelForCausalLM.from_pretrained(target).state_dict()
    assert any(not torch.equal(before[name], after[name]) for name in before)


def test_a_penalised_step_becomes_less_likely_and_a_praised_one_more(
    values: dict, tmp_path: Path
) -> None:
    # The judge's rule is the whole reward: outcome weighs nothing.
    recipe = changed(
        values,
        steps=25,
        optimiser__learning_rate=1e-2,
        credit__w_whole=0.0,
        algorithm__kl=0.0,
        data__prompts_per_step=8,
        algorithm__minibatch=32,
    )
    train(recipe)
    rates = [r["wrong_step_rate"] for r in records(recipe.output)]
    assert sum(rates[-5:]) < 0.7 * sum(rates[:5])


def test_a_killed_run_goes_on_as_if_nothing_had_happened(values: dict, tmp_path: Path) -> None:
    whole = tmp_path / "whole.toml"
    whole.write_text(kit_trainer.toml({**values, "output": str(tmp_path / "whole")}))
    done = kit_trainer.launch(whole)
    assert done.returncode == 0, done.stderr

    cut = tmp_path / "cut.toml"
    output = tmp_path / "cut"
    cut.write_text(kit_trainer.toml({**values, "output": str(output)}))
    process = subprocess.Popen(
        kit_trainer.command(cut), env=kit_trainer.environment(), stdout=subprocess.DEVNULL
    )
    checkpoints = output / "checkpoints"
    until = time.monotonic() + 120
    while not (checkpoints.is_dir() and any(checkpoints.glob("step-*"))):
        assert process.poll() is None and time.monotonic() < until
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (output / "policy").exists()
    # As a kill may leave it: a record half written, a checkpoint half written.
    with (output / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "train", "st')
    (checkpoints / ".part-9").mkdir()

    again = kit_trainer.launch(cut)
    assert again.returncode == 0, again.stderr
    assert "resumed after step" in again.stdout
    assert_same(records(output), records(tmp_path / "whole"), 1e-9)
    assert rollouts(output) == rollouts(tmp_path / "whole")
    assert len(list(checkpoints.glob("step-*"))) == 2
    one, other = (
        torch.load(next(iter(sorted(run.glob("checkpoints/step-*"))[-1:])) / "optimizer.bin")
        for run in (output, tmp_path / "whole")
    )
    assert one["state"]
    for state, same in zip(one["state"].values(), other["state"].values(), strict=True):
        assert torch.equal(state["exp_avg"], same["exp_avg"])


def test_ctrl_c_says_what_is_kept(values: dict, tmp_path: Path) -> None:
    recipe, output = tmp_path / "stopped.toml", tmp_path / "stopped"
    recipe.write_text(kit_trainer.toml({**values, "output": str(output), "steps": 500}))
    process = subprocess.Popen(
        kit_trainer.command(recipe),
        env=kit_trainer.environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_for_lines(output / "metrics.jsonl", 1, process, 120)
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 130 and f"Checkpoints so far are in {output}" in said
    assert "Traceback" not in said


def test_another_recipe_does_not_go_on_from_a_checkpoint(values: dict) -> None:
    train(changed(values, steps=1))
    with pytest.raises(RecipeError, match="different recipe"):
        train(changed(values, steps=2))


@pytest.mark.parametrize("average", ["rollout", "token"])
def test_two_processes_give_the_losses_of_one(values: dict, tmp_path: Path, average: str) -> None:
    values["algorithm"]["average"] = average
    values["steps"] = 2
    for processes in (1, 2):
        recipe = tmp_path / f"{processes}.toml"
        output = tmp_path / f"run-{processes}"
        recipe.write_text(kit_trainer.toml({**values, "output": str(output)}))
        done = kit_trainer.launch(recipe, processes)
        assert done.returncode == 0, done.stderr[-3000:]
    one, two = records(tmp_path / "run-1"), records(tmp_path / "run-2")
    assert one[0]["rollouts"] == two[0]["rollouts"] == 16
    assert_same(two, one, 1e-4)


def test_micro_batches_and_checkpointing_change_nothing(values: dict, tmp_path: Path) -> None:
    runs = {
        "small": {"algorithm__micro_batch": 1},
        "large": {"algorithm__micro_batch": 16},
        "saving": {"policy__gradient_checkpointing": True},
    }
    for name, changes in runs.items():
        train(changed(values, output=str(tmp_path / name), steps=2, **changes))
        AcceleratorState._reset_state()
    whole = records(tmp_path / "large")
    assert_same(records(tmp_path / "small"), whole, 1e-4)
    assert_same(records(tmp_path / "saving"), whole, 1e-4)


def test_bf16_trains(values: dict) -> None:
    recipe = changed(values, steps=2, policy__precision="bf16")
    train(recipe)
    losses = [record["loss"] for record in records(recipe.output)]
    assert len(losses) == 2 and all(map(math.isfinite, losses))


def test_rewards_of_every_kind_run(values: dict, tmp_path: Path) -> None:
    for reward, advantage in (
        ("outcome", "grpo"),
        ("generative_outcome", "grpo"),
        ("capo", "papo"),
        ("capo", "vppo"),
        ("capo", "pass"),
        ("capo", "rloo"),
        ("capo", "centred"),
    ):
        output = tmp_path / f"{reward}-{advantage}"
        train(
            changed(
                values,
                output=str(output),
                steps=1,
                credit__reward=reward,
                algorithm__advantage=advantage,
                algorithm__format_reward=0.2,
            )
        )
        assert math.isfinite(records(output)[0]["loss"])
        assert (records(output)[0]["judge_completion_tokens"] == 0) == (reward == "outcome")


@contextlib.contextmanager
def dying(folder: Path, after: int) -> Iterator[Service]:
    """A service whose judge dies after so many critiques."""
    engine = ScriptedEngine()

    def script(prompt: str, sampling: object) -> str:
        if len(engine.prompts) > after:
            engine.kill()
        return by_letters(prompt, sampling)  # type: ignore[arg-type]

    engine.script = script
    with serving(engine, settings(folder)) as running:
        yield running


@pytest.mark.parametrize("fallback", ["skip", "outcome"])
def test_what_gets_no_credit_falls_back_and_is_counted(
    values: dict, tmp_path: Path, capsys: pytest.CaptureFixture[str], fallback: str
) -> None:
    with dying(tmp_path, after=20) as service:
        recipe = changed(
            values,
            steps=1,
            credit__url=service.url,
            credit__on_failure=fallback,
            credit__deadline=3,
        )
        train(recipe)
    [record] = records(recipe.output)
    assert 0 < record["uncredited"] < 16
    assert sum(record["failures"].values()) == record["uncredited"]
    shown = capsys.readouterr().out
    assert f"{record['uncredited']} of 16 rollouts uncredited" in shown
    assert "why uncredited: " in shown


def test_a_service_that_is_gone_skips_all_and_stops_or_goes_on_by_the_outcome(
    values: dict, tmp_path: Path
) -> None:
    with dying(tmp_path, after=0) as service:
        values["credit"] |= {"url": service.url, "deadline": 2}
        with pytest.raises(
            TrainingStopped, match=r"no rollout can be learnt from.*uncredited.: 16"
        ):
            train(changed(values))
        AcceleratorState._reset_state()
    with dying(tmp_path, after=0) as service:
        values["credit"] |= {"url": service.url}
        recipe = changed(
            values, output=str(tmp_path / "other"), steps=1, credit__on_failure="outcome"
        )
        train(recipe)
        assert records(recipe.output)[0]["uncredited"] == 16


def test_a_loss_that_is_not_a_number_stops_and_keeps_the_last_checkpoint(
    values: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, calls = learning.policy_loss, []

    def breaks(logprobs: torch.Tensor, *rest: object) -> torch.Tensor:
        calls.append(1)
        return whole(logprobs, *rest) * (math.nan if len(calls) == 21 else 1)  # type: ignore[arg-type]

    monkeypatch.setattr(learning, "policy_loss", breaks)  # 8 calls a step
    recipe = changed(values)
    with pytest.raises(TrainingStopped, match=r"step 3, epoch 2: the loss is nan.*questions \[\d"):
        train(recipe)
    newest = sorted((recipe.output / "checkpoints").glob("step-*"))[-1]
    assert json.loads((newest / "trainer.json").read_text())["step"] == 2
    monkeypatch.undo()
    AcceleratorState._reset_state()
    train(recipe)
    assert [r["step"] for r in records(recipe.output)] == [1, 2, 3, 4]


def test_cut_off_blank_and_undecided_rollouts_are_counted(values: dict, tmp_path: Path) -> None:
    recipe = changed(values, steps=1, sampling__max_tokens=2, algorithm__truncated="keep")
    train(recipe)
    [record] = records(recipe.output)
    assert record["truncated"] > 8
    AcceleratorState._reset_state()
    recipe = changed(
        values, output=str(tmp_path / "u"), steps=1, data__verifier="kit_trainer:undecided"
    )
    with pytest.raises(TrainingStopped, match=r"unverified.: 16"):
        train(recipe)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 3: not JSON"),
        ("[1]", "line 3: not a JSON object"),
        ('{"question": "q"}', "line 3: answer must be a string"),
        ('{"question": " ", "answer": "1"}', "line 3: question must be a string"),
    ],
)
def test_a_bad_prompt_stops_before_training(values: dict, line: str, message: str) -> None:
    path = Path(values["data"]["prompts"])
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:2], line, *lines[2:]]))
    with pytest.raises(PromptFileError, match=message):
        train(changed(values))
    assert not Path(values["output"]).exists()


def test_an_answer_that_cannot_be_verified_is_named(values: dict) -> None:
    path = Path(values["data"]["prompts"])
    path.write_text('{"question": "q", "answer": "42"}\n{"question": "q", "answer": "see above"}\n')
    with pytest.raises(PromptFileError, match="line 2: the answer 'see above' cannot be verified"):
        train(changed(values, data__verifier="math_verify"))


def test_a_service_that_cannot_be_used_is_refused(
    values: dict, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(TokenizerNotServedError, match=r"does not serve tokenizer 'mine'.*gpt2"):
        train(changed(values, credit__tokenizer="mine"))
    AcceleratorState._reset_state()
    with pytest.raises(RewardServiceError, match=r"cannot be used.*capo serve"):
        train(changed(values, credit__url="http://127.0.0.1:9", credit__ready_within=0))
    AcceleratorState._reset_state()
    monkeypatch.setattr("capo_trainer.reward_client.our_version", lambda: "7.1.0")
    with pytest.raises(RewardServiceError, match=r"version .*this trainer 7\.1\.0"):
        train(changed(values))
