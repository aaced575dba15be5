"""The trainer's parts that need neither a service nor a run."""

from __future__ import annotations

import json
import os
import re
import signal
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

import capo_wire as wire
from capo_client.cli.main import app as capo_app
from capo_testbed import cli as testbed_cli
from capo_trainer import cli, errors
from capo_trainer.batch import make_batch
from capo_trainer.data import prompts_of_step
from capo_trainer.errors import RecipeError, TrainerError
from capo_trainer.evaluate import JudgedSolution, summary
from capo_trainer.recipe import load_recipe
from capo_trainer.reward_client import Bundles
from capo_trainer.sampling.local import _ChooseToken
from capo_trainer.sections import CreditSection
from capo_trainer.types import Prompt, RolloutCredit, SampledRollout, SampleRequest
from capo_trainer.verify import MathVerify, VerifierProcess
from kit_trainer import changed, recipe_values

ROOT = Path(__file__).parents[2]


def values(**changes: Any) -> Any:
    base = recipe_values(Path("policy"), Path("prompts.jsonl"), Path("out"), "http://127.0.0.1:9")
    return changed(base, **changes)


# --- recipes


@pytest.mark.parametrize("path", sorted((ROOT / "recipes").glob("*.toml")), ids=lambda p: p.stem)
def test_the_recipes_resolve(path: Path) -> None:
    recipe = load_recipe(path)
    assert recipe.updates >= 1


@pytest.mark.parametrize(
    ("name", "rate", "method"),
    [("qwen2.5_1.5b", 1e-7, "intersection"), ("qwen2.5_7b", 2e-8, "majority")],
)
def test_the_paper_recipes_have_the_papers_values(name: str, rate: float, method: str) -> None:
    recipe = load_recipe(ROOT / "recipes" / f"paper_{name}.toml")
    assert (recipe.sampling.rollouts_per_prompt, recipe.minibatch) == (16, 192)
    assert (recipe.sampling.temperature, recipe.sampling.top_p) == (0.7, 0.9)
    assert (recipe.credit.w_whole, recipe.credit.w_process, recipe.credit.n) == (2.0, 1.0, 4)
    assert (recipe.credit.method, recipe.credit.max_tokens) == (method, 2048)
    assert (recipe.algorithm.epochs, recipe.algorithm.kl) == (4, 0.01)
    assert (recipe.algorithm.format_reward, recipe.algorithm.average) == (0.2, "rollout")
    assert recipe.algorithm.advantage == "capo" and recipe.optimiser.learning_rate == rate


@pytest.mark.parametrize("path", sorted((ROOT / "recipes").glob("*.toml")), ids=lambda p: p.stem)
def test_the_processes_that_a_recipe_names_can_share_its_work(path: Path) -> None:
    recipe = load_recipe(path)
    for found in re.findall(r"--num_processes (\d+)", path.read_text()):
        assert recipe.data.prompts_per_step % int(found) == 0, "as run.py asks"
        assert recipe.minibatch % int(found) == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"credit__w_proces": 1.0}, "unknown setting credit.w_proces .did you mean w_process"),
        ({"algorithm__minibatch": 5}, "minibatch = 5 does not divide the 16 rollouts"),
        ({"sampling__engine": "openai"}, "engine openai and url go together"),
        ({"credit__tokenizer": None}, "credit.tokenizer is missing"),
        ({"sampling__rollouts_per_prompt": 1}, "sampling.rollouts_per_prompt"),
        ({"credit__method": "greedy", "credit__n": 4}, "greedy takes one critique"),
        ({"credit__n": 65}, "recipe: credit.n: Input should be less than or equal to 64"),
        ({"credit__top_p": 0}, "recipe: credit.top_p: Input should be greater than 0"),
        ({"credit__segment": "word"}, "recipe: credit.segment: Input should be 'blank_line'"),
    ],
)
def test_a_recipe_that_cannot_be_right_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        values(**changes)


def test_the_credit_section_has_the_defaults_of_the_wire() -> None:
    section = CreditSection()
    assert section.voting == wire.Voting() and section.weights == wire.Reward()
    assert section.segmentation == wire.Segment()
    assert section.show_reference is wire.CreditOptions().show_reference


def test_all_errors_of_the_trainer_have_one_base() -> None:
    kinds = [value for value in vars(errors).values() if isinstance(value, type)]
    assert len(kinds) >= 7 and all(issubclass(kind, TrainerError) for kind in kinds)


def test_the_command_shows_every_value_and_explains_what_is_wrong(tmp_path: Path) -> None:
    app = type(capo_app)()
    app.command("train")(cli.train)
    app.command("other")(testbed_cli.testbed)
    path = str(ROOT / "recipes" / "gsm8k_smollm2_cpu.toml")
    shown = CliRunner().invoke(app, ["train", "--config", path, "--dry-run", "--set", "steps=7"])
    assert shown.exit_code == 0 and '"steps": 7' in shown.output
    assert "7 steps of 8 rollouts, 7 updates of 8" in shown.output
    gone = CliRunner().invoke(app, ["train", "--config", str(tmp_path / "no.toml")])
    assert gone.exit_code == 2 and "cannot be read: No such file" in gone.output
    (tmp_path / "bad.toml").write_text("steps = ")
    bad = CliRunner().invoke(app, ["train", "--config", str(tmp_path / "bad.toml")])
    assert bad.exit_code == 2 and "is not TOML" in bad.output
    odd = CliRunner().invoke(app, ["train", "--config", path, "--dry-run", "--set", "steps"])
    assert odd.exit_code == 2 and "--set steps: write" in odd.output


# --- which questions a step learns from


def test_every_pass_takes_every_question_once_in_an_order_of_its_own() -> None:
    prompts = [Prompt(i, str(i), str(i)) for i in range(10)]
    taken = [p.index for step in range(10) for p in prompts_of_step(prompts, step, 4, seed=1)]
    passes = [taken[i : i + 10] for i in range(0, 40, 10)]
    assert all(sorted(each) == list(range(10)) for each in passes)
    assert len({tuple(each) for each in passes}) == 4
    assert [p.index for p in prompts_of_step(prompts, 7, 4, seed=1)] == taken[28:32]
    assert [p.index for p in prompts_of_step(prompts, 2, 4, 1, shuffle=False)] == [8, 9, 0, 1]


# --- sampling


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.7, 1.0), (1.3, 0.8), (0.7, 0.5)])
def test_sampled_tokens_have_the_distribution_of_temperature_and_top_p(
    temperature: float, top_p: float
) -> None:
    torch.manual_seed(0)
    logits = torch.tensor([2.0, 1.0, 0.5, -1.0, -20.0])
    probabilities = (logits / temperature).softmax(0).sort(descending=True).values
    kept = int((probabilities.cumsum(0) - probabilities < top_p).sum())
    wanted = probabilities[:kept] / probabilities[:kept].sum()
    count = 40_000
    uniforms = ((torch.arange(count, dtype=torch.float64) + 0.5) / count)[:, None]
    choose = _ChooseToken(uniforms, 3, temperature, top_p)
    scores = choose(torch.zeros(count, 3, dtype=torch.long), logits.expand(count, 5))
    assert ((scores == 0).sum(1) == 1).all()  # one token is left
    chosen = Counter(scores.argmax(1).tolist())
    for token in range(5):
        share = wanted[token].item() if token < kept else 0.0
        assert chosen[token] / count == pytest.approx(share, abs=1e-4)


# --- rewards


def rollout(text: str, question: int, tokens: int, finished: bool = True) -> SampledRollout:
    prompt = Prompt(question, "q", "a")
    return SampledRollout(
        SampleRequest(prompt, [5] * (question + 1), "k"), [7] * tokens, text, finished
    )


def test_a_batch_holds_the_rewards_of_equation_1() -> None:
    settings = values(
        sampling__rollouts_per_prompt=2,
        data__prompts_per_step=2,
        algorithm__minibatch=4,
        algorithm__format_reward=0.2,
        algorithm__format_pattern="ok",
    )
    rollouts = [rollout("ok", 0, 3), rollout("x", 0, 2), rollout("ok", 1, 1), rollout(" ", 1, 1)]
    credits = {
        0: RolloutCredit([0.0, 1.0, 1.0], [False, True]),
        1: RolloutCredit([0.5, 0.5], [True]),
    }
    batch = make_batch(rollouts, [1.0, 0.0, 1.0, 0.0], credits, settings, 0, "cpu")
    assert batch.outcome.tolist() == pytest.approx([2.2, 0.0, 0.0, 0.0])
    assert batch.process[:2].tolist() == [[0.0, -1.0, -1.0], [-0.5, -0.5, 0.0]]
    # The third got no credit and is left out; the fourth is blank and simply wrong.
    assert batch.mask.sum(1).tolist() == [3, 2, 0, 1]
    assert batch.groups.tolist() == [0, 0, 1, 1]
    assert batch.ids.tolist()[0] == [0, 5, 7, 7, 7] and batch.ids.tolist()[2] == [5, 5, 7, 0, 0]
    assert batch.attention.tolist()[1] == [0, 1, 1, 1, 0]
    assert batch.counts["uncredited"] == 1 and batch.counts["blank"] == 1
    assert (batch.counts["steps"], batch.counts["wrong_steps"]) == (3, 2)


def test_a_batch_falls_back_to_the_outcome_and_leaves_out_what_is_undecided() -> None:
    settings = values(
        sampling__rollouts_per_prompt=2,
        data__prompts_per_step=1,
        algorithm__minibatch=2,
        credit__on_failure="outcome",
        algorithm__truncated="mask",
    )
    batch = make_batch(
        [rollout("a", 0, 2), rollout("b", 0, 2)], [1.0, None], {}, settings, 0, "cpu"
    )
    assert batch.outcome.tolist() == [2.0, 0.0] and batch.mask.sum(1).tolist() == [2, 0]
    assert batch.counts["uncredited"] == 1 and batch.counts["unverified"] == 1
    cut = make_batch(
        [rollout("a", 0, 2, False), rollout("b", 0, 2)],
        [1.0, 1.0],
        {0: RolloutCredit([0.0, 0.0], [False]), 1: RolloutCredit([0.0, 0.0], [False])},
        settings,
        0,
        "cpu",
    )
    assert cut.mask.sum(1).tolist() == [0, 2] and cut.counts["truncated"] == 1


def test_bundles_are_full_or_the_last_of_a_question() -> None:
    bundles = Bundles(2, 3)
    sent = []
    for position in (0, 3, 4, 2, 1, 5):
        if bundle := bundles.add((position, rollout("a", 0, 1), None)):
            sent.append([item[0] for item in bundle])
    assert sent == [[3, 4], [0, 2], [1], [5]] and bundles.rest() == []
    bundles.add((6, rollout("a", 0, 1), None))
    assert [[item[0] for item in bundle] for bundle in bundles.rest()] == [[6]]


def test_an_evaluation_counts_what_is_known() -> None:
    found = summary(
        [
            JudgedSolution(1.0, [True, False], 4),
            JudgedSolution(0.0, [False, False], 2),
            JudgedSolution(1.0, None, 3),
        ]
    )
    assert found["accuracy"] == pytest.approx(2 / 3) and found["tokens"] == 3
    assert found["wrong_step_rate"] == 0.25 and found["lucky_rate"] == 0.5 and found["unknown"] == 1


@pytest.mark.parametrize(
    ("response", "answer", "right"),
    [
        ("so it is 42. #### 42", "17 + 25 = 42 #### 42", 1.0),
        ("\\boxed{1/2}", "0.5", 1.0),
        ("\\boxed{41}", "#### 42", 0.0),
        ("", "#### 42", 0.0),
        ("1,000", "#### 1000", 1.0),
    ],
)
def test_outcomes_by_math_verify(
    verifiers: list[MathVerify], response: str, answer: str, right: float
) -> None:
    for verifier in verifiers:
        assert verifier.readable(answer) and verifier(response, answer) == right
        assert not verifier.readable("see above")


@pytest.fixture(scope="module")
def verifiers() -> Iterator[list[MathVerify]]:
    with closing(VerifierProcess()) as process:
        yield [MathVerify(), process]


def test_an_answer_under_which_the_verifying_process_dies_is_undecided() -> None:
    with closing(VerifierProcess()) as verifier:
        assert verifier("42", "42") == 1.0
        first = verifier._process
        assert first is not None
        os.kill(first.pid, signal.SIGKILL)
        first.wait()
        assert verifier("42", "42") is None
        assert verifier("42", "42") == 1.0
        second = verifier._process
    assert first.returncode == -signal.SIGKILL and second is not None
    assert second.returncode is not None  # ended by close


def test_sample_prompts_of_the_recipe_are_readable() -> None:
    verifier = MathVerify()
    lines = (ROOT / "recipes" / "sample_prompts.jsonl").read_text().splitlines()
    assert len(lines) >= 4
    for line in lines:
        assert verifier.readable(json.loads(line)["answer"])
