"""TRL's own GRPOTrainer, with the real service: SmolLM2 trained for three steps."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import trl
from datasets import Dataset
from kit_adapters import MODEL, NOWHERE, QUESTIONS, URL, cable
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM
from trl import GRPOConfig, GRPOTrainer

from capo_client import UnavailableError
from capo_client.adapters.advantages import token_advantages
from capo_client.adapters.trl import CapoGRPOTrainer, CapoReward
from capo_client.cli.ports import free_port

OPTIONS: dict[str, Any] = {"voting": {"n": 3}, "segment": {"method": "sentence"}, "deadline": 120}


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(MODEL)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory, tokenizer: Any) -> str:
    """A Llama of 3 million random weights with SmolLM2's tokenizer: it writes nonsense, fast."""
    folder = str(tmp_path_factory.mktemp("tiny"))
    shape = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=tokenizer.bos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    LlamaForCausalLM(shape).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def data(extra: dict[str, Any] | None = None) -> Dataset:
    rows = [
        {"prompt": [{"role": "user", "content": question}], "answer": answer} | (extra or {})
        for question, answer in QUESTIONS
    ]
    return Dataset.from_list(rows)


def config(tmp_path: Path, **changed: Any) -> GRPOConfig:
    settings: dict[str, Any] = dict(
        output_dir=str(tmp_path),
        max_steps=3,
        per_device_train_batch_size=4,
        num_generations=4,
        max_completion_length=48,
        learning_rate=1e-5,
        logging_steps=1,
        report_to=[],
        use_cpu=True,
        bf16=False,
        save_strategy="no",
        seed=1,
        beta=0.0,
        loss_type="grpo",
        disable_tqdm=True,
    )
    return GRPOConfig(**settings | changed)


class Recording(CapoGRPOTrainer):
    """Keeps what the loss is given, and the credit that it came from."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.seen: list[dict[str, Any]] = []
        self.scored: list[Any] = []

    def _generate_and_score_completions(self, inputs: Any) -> Any:
        output = super()._generate_and_score_completions(inputs)
        self.scored.append(
            (
                list(self._capo.last),
                {k: v.clone() for k, v in output.items() if hasattr(v, "clone")},
            )
        )
        return output

    def _compute_loss(self, model: Any, inputs: Any) -> Any:
        self.seen.append({k: v.clone() for k, v in inputs.items() if hasattr(v, "clone")})
        return super()._compute_loss(model, inputs)


def test_three_steps_of_smollm2_give_tokens_of_wrong_steps_lower_advantages(tmp_path: Path) -> None:
    reward = CapoReward(reference="answer", **OPTIONS)
    trainer = Recording(
        model=MODEL, reward_funcs=reward, args=config(tmp_path), train_dataset=data()
    )
    before = {n: p.detach().clone() for n, p in trainer.model.named_parameters()}
    trainer.train()

    assert len(trainer.seen) == 3
    mixed = 0
    for (scored, output), inputs in zip(trainer.scored, trainer.seen, strict=True):
        advantages = output["advantages"]
        assert advantages.shape == output["completion_ids"].shape
        # What the loss got is what was made, row for row (TRL shuffles the rows).
        assert inputs["advantages"].shape == advantages.shape
        torch.testing.assert_close(
            inputs["advantages"].sum(1).sort().values, advantages.sum(1).sort().values
        )
        mask = output["completion_mask"].bool()
        assert (advantages[~mask] == 0).all()
        expected = eq_2([s.token_rewards for s in scored], mask.numpy())
        np.testing.assert_allclose(advantages.numpy(), expected, atol=1e-5)
        for row, one in enumerate(scored):
            assert one.source == "judge", one.error
            rewards = torch.tensor(one.token_rewards)
            assert len(rewards) == int(mask[row].sum())
            if 0 < one.wrong < one.steps and advantages.abs().sum() > 0:
                mixed += 1
                wrong = rewards == rewards.min()
                mine = advantages[row][mask[row]]
                assert mine[wrong].max() < mine[~wrong].min()
    assert mixed, "no rollout had both kinds of steps"
    changed = [n for n, p in trainer.model.named_parameters() if not torch.equal(p, before[n])]
    assert changed
    logs = [row for row in trainer.state.log_history if "capo_wrong_step_rate" in row]
    assert len(logs) == 3 and all(row["capo_fallback"] == 0 for row in logs)


def eq_2(rewards: list[list[float]], mask: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """One group, in plain float64."""
    flat = np.array([value for row in rewards for value in row])
    result = np.zeros(mask.shape)
    if flat.std() > 1e-6:
        for row, values in enumerate(rewards):
            result[row, : len(values)] = (np.array(values) - flat.mean()) / flat.std()
    return result


def test_the_reward_function_alone_serves_trl_s_own_trainer(tmp_path: Path, tiny: str) -> None:
    reward = CapoReward(reference="answer", **OPTIONS)
    trainer = GRPOTrainer(
        model=tiny, reward_funcs=[reward], args=config(tmp_path, max_steps=1), train_dataset=data()
    )
    trainer.train()
    [log] = [row for row in trainer.state.log_history if "rewards/capo/mean" in row]
    assert log["rewards/capo/mean"] == pytest.approx(
        np.mean([s.reward for s in reward.last]), abs=1e-5
    )
    assert all(s.source == "judge" for s in reward.last)


def test_a_service_that_is_down_at_the_start_is_named(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match=f"{NOWHERE}.*capo serve"):
        CapoReward(NOWHERE, reference="answer")


def test_a_service_that_goes_away_leaves_the_fall_back_counted(tmp_path: Path, tiny: str) -> None:
    with cable() as way:
        reward = CapoReward(way.url, reference="answer", **OPTIONS | {"deadline": 30})
        trainer = Recording(
            model=tiny,
            reward_funcs=reward,
            args=config(tmp_path, max_steps=2),
            train_dataset=data(),
        )
        step = trainer.training_step

        def cut_after_one(*args: Any, **kwargs: Any) -> Any:
            if trainer.state.global_step == 1:
                way.cut()
            return step(*args, **kwargs)

        trainer.training_step = cut_after_one
        trainer.train()
    assert [
        row["capo_fallback"] for row in trainer.state.log_history if "capo_fallback" in row
    ] == [0, 1]
    assert (trainer.seen[1]["advantages"] == 0).all()
    assert reward.scorer.counts == {"judge": 4, "none": 4}


def test_outcomes_of_a_column_are_the_fall_back_where_that_is_asked_for(
    tmp_path: Path, tiny: str
) -> None:
    with cable() as way:
        reward = CapoReward(
            way.url, outcome="right", **OPTIONS | {"deadline": 2, "fallback": "outcome"}
        )
        way.cut()
        trainer = Recording(
            model=tiny,
            reward_funcs=reward,
            args=config(tmp_path, max_steps=1),
            train_dataset=data({"right": 1.0}),
        )
        trainer.train()
    assert [s.reward for s in reward.last] == [2.0] * 4
    assert all(
        (s.source == "outcome" and "cannot be reached" in (s.error or "")) or s.error
        for s in reward.last
    )


async def test_one_bad_rollout_of_a_batch_stands_alone(tokenizer: Any) -> None:
    reward = CapoReward(reference="answer", tokenizer=tokenizer, **OPTIONS)
    texts = ["10 is left.\n\n#### 10", "It is so. " * 50_000]
    ids = [[*tokenizer.encode(text), tokenizer.eos_token_id] for text in texts]
    rewards = await reward(["How many?"] * 2, texts, ids, answer=["10", "10"])
    assert rewards[0] is not None and rewards[1] is None
    assert len(reward.last[0].token_rewards) == len(ids[0])
    assert "this service accepts" in (reward.last[1].error or "")


async def test_truncated_blank_and_padded_completions_keep_their_lengths(tokenizer: Any) -> None:
    reward = CapoReward(reference="answer", tokenizer=tokenizer, **OPTIONS)
    whole = tokenizer.encode("Five. 😀😀 And so on")
    ids = [
        whole[:-1],
        whole[:3],
        [tokenizer.eos_token_id],
        [*whole, *[tokenizer.pad_token_id] * 3],
        [],
    ]
    await reward(["How many?"] * 5, [""] * 5, ids, answer=["5"] * 5)
    assert [len(s.token_rewards) for s in reward.last] == [len(each) for each in ids]
    assert all(s.source == "judge" for s in reward.last)


async def test_a_tokenizer_that_the_service_does_not_know_is_no_obstacle(
    tokenizer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    known = CapoReward(
        reference="answer", tokenizer=tokenizer, tokenizer_name="SmolLM2-135M-Instruct", **OPTIONS
    )
    assert known.scorer.by_name
    unknown = CapoReward(reference="answer", tokenizer=tokenizer, tokenizer_name="mine", **OPTIONS)
    assert "does not serve tokenizer 'mine'" in caplog.text
    ids = tokenizer.encode("It is 3 * 4 = 12.\n\nLess 2 is 10.\n\n#### 10")
    for reward in (known, unknown):
        await reward(["How many?"], [""], [ids], answer=["10"])
    assert len(known.last[0].token_rewards) == len(unknown.last[0].token_rewards) == len(ids)


async def test_a_column_that_is_not_there_is_named(tokenizer: Any) -> None:
    reward = CapoReward(reference="solution", tokenizer=tokenizer)
    with pytest.raises(ValueError, match="no column 'solution'; it has answer"):
        await reward(["?"], ["x"], [[1]], answer=["1"])
    with pytest.raises(ValueError, match="neither a reference answer nor an outcome"):
        CapoReward(tokenizer=tokenizer)
    CapoReward(tokenizer=tokenizer, reward={"scheme": "process_only"})


async def test_a_row_without_a_reference_fails_alone(tokenizer: Any) -> None:
    reward = CapoReward(reference="answer", tokenizer=tokenizer, **OPTIONS)
    ids = [tokenizer.encode("#### 0.0000001")] * 3
    rewards = await reward(["?"] * 3, ["x"] * 3, ids, answer=[1e-7, None, [1e-7]])
    assert rewards[1] is None and [s.outcome for s in reward.last] == [1.0, None, 1.0]


TURNS = [("I will look it up.", 1), ("\nThe tool says:\n#### 42\n", 0), ("I am not sure.", 1)]


async def test_what_a_tool_wrote_is_not_judged(tokenizer: Any) -> None:
    encoded = [tokenizer.encode(text) for text, _ in TURNS]
    ids = [token for part in encoded for token in part]
    mask = [own for (_, own), part in zip(TURNS, encoded, strict=True) for _ in part]
    messages = [{"role": "assistant" if own else "tool", "content": text} for text, own in TURNS]
    for by_text in (False, True):  # with TRL's own trainer there is no mask: only messages
        reward = CapoReward(reference="answer", tokenizer=None if by_text else tokenizer, **OPTIONS)
        for masks in (None, [mask]):
            reward.masks = masks
            await reward(["?"], [messages], [ids], answer=["42"])
            [scored] = reward.last
            assert (scored.outcome, scored.steps) == (0.0, 2)
            if masks and not by_text:
                assert [t == 0.0 for t in scored.token_rewards] >= [not own for own in mask]
                assert len(scored.token_rewards) == len(ids)
            else:
                assert scored.token_rewards is None
            assert reward.masks is None
    two = [{"role": "assistant", "content": text} for text in ("12", "5")]
    await reward(["?"] * 2, [two] * 2, [[], []], answer=["5", "125"])
    assert [scored.outcome for scored in reward.last] == [1.0, 0.0]


def test_the_environment_s_tokens_of_a_rollout_function(
    tmp_path: Path, tiny: str, tokenizer: Any
) -> None:
    """TRL's own way from `env_mask` to the loss; the environment writes the answer."""
    parts = ["It may be ten.", "#### 10", "I am not sure."]
    encoded = [tokenizer.encode(part) for part in parts]
    ids = [token for part in encoded for token in part] + [tokenizer.eos_token_id]
    mask = [int(n != 1) for n, part in enumerate(encoded) for _ in part] + [1]

    def rollouts(prompts: Any, trainer: Any) -> dict[str, Any]:
        count = len(prompts)
        return {
            "prompt_ids": [tokenizer.encode("?")] * count,
            "completion_ids": [list(ids)] * count,
            "logprobs": [[0.0] * len(ids)] * count,
            "env_mask": [list(mask)] * count,
        }

    reward = CapoReward(reference="answer", **OPTIONS | {"segment": {"method": "blank_line"}})
    rows = [{"prompt": [{"role": "user", "content": "How many?"}], "answer": "10"}] * 4
    trainer = Recording(
        model=tiny,
        reward_funcs=reward,
        args=config(tmp_path, max_steps=1),
        train_dataset=Dataset.from_list(rows),
        rollout_func=rollouts,
    )
    trainer.train()
    [(scored, output)] = trainer.scored
    own = torch.tensor(mask).bool()
    for each, row in zip(scored, output["advantages"], strict=True):
        assert (each.outcome, each.steps) == (0.0, 2)
        assert all(
            value == 0.0 for value, flag in zip(each.token_rewards, mask, strict=True) if not flag
        )
        assert (row[: len(mask)][~own] == 0).all()
    torch.testing.assert_close(
        output["tool_mask"][:, : len(mask)].bool(), own.expand(len(scored), -1)
    )


def test_token_rewards_of_another_number_are_refused(tmp_path: Path, tiny: str) -> None:
    from capo_client.adapters.scoring import Scored

    reward = CapoReward(reference="answer", **OPTIONS)
    trainer = Recording(
        model=tiny, reward_funcs=reward, train_dataset=data(), args=config(tmp_path)
    )
    reward.last = [Scored([1.0, 1.0], 1.0)]
    for mask in (torch.ones(1, 3), torch.ones(1, 1)):
        with pytest.raises(ValueError, match=f"2 token rewards for {mask.shape[1]} tokens"):
            trainer._token_advantages({"completion_mask": mask}, 1)


def test_tokens_of_tools_and_other_functions_rewards(tmp_path: Path, tiny: str) -> None:
    """Masks and weights, on the trainer's own method with tensors of ours."""

    def length(completions: Any, **_: Any) -> list[float]:
        return [0.5] * len(completions)

    reward = CapoReward(reference="answer", **OPTIONS)
    trainer = Recording(
        model=tiny,
        reward_funcs=[length, reward],
        train_dataset=data(),
        args=config(tmp_path, reward_weights=[2.0, 3.0], scale_rewards="none"),
    )
    from capo_client.adapters.scoring import Scored

    reward.last = [
        Scored([1.0, 1.0, -1.0], 1 / 3),
        Scored([0.0, 0.0], 0.0),
        Scored(None, None, source="none"),
        Scored([2.0], 2.0),
    ]
    trainer._all_rewards = torch.tensor([[0.5, 1 / 3], [0.5, 0.0], [0.5, float("nan")], [0.0, 2.0]])
    mask = torch.tensor([[1, 1, 1], [1, 1, 0], [1, 1, 1], [1, 0, 0]])
    tools = torch.tensor([[1, 0, 1], [1, 1, 1], [1, 1, 1], [1, 1, 1]])
    found = trainer._token_advantages({"completion_mask": mask, "tool_mask": tools}, 4)
    # 2 * 0.5 + 3 * r; the token of the tool and the rollout without credit count nowhere.
    values = np.array([4.0, -2.0, 1.0, 1.0, 6.0])
    expected = np.zeros((4, 3))
    expected[0, [0, 2]] = values[:2] - values.mean()
    expected[1, :2] = values[2:4] - values.mean()
    expected[3, 0] = values[4] - values.mean()
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-6)


def test_pass_keeps_the_outcome_apart(tmp_path: Path, tiny: str) -> None:
    """As `test_tokens_of_tools_and_other_functions_rewards`; w_whole is 2."""
    from capo_client.adapters.scoring import Scored

    def length(completions: Any, **_: Any) -> list[float]:
        return [0.5] * len(completions)

    reward = CapoReward(reference="answer", **OPTIONS)
    arguments: dict[str, Any] = dict(
        model=tiny, reward_funcs=[length, reward], train_dataset=data(), advantage="pass"
    )
    trainer = Recording(args=config(tmp_path, reward_weights=[2.0, 3.0]), **arguments)
    reward.last = [
        Scored([2.0, 0.0, 1.0, 2.0], 5 / 3, 1.0),
        Scored([-1.0], -1.0, 0.0),
        Scored(None, None, source="none"),
    ]
    trainer._all_rewards = torch.tensor([[0.5, 5 / 3], [0.5, -1.0], [0.5, float("nan")]])
    mask = torch.tensor([[1, 1, 1, 1], [1, 0, 0, 0], [1, 1, 1, 1]])
    tools = torch.tensor([[1, 0, 1, 1], [1, 1, 1, 1], [1, 1, 1, 1]])
    found = trainer._token_advantages({"completion_mask": mask, "tool_mask": tools}, 3)
    # Chunks of 2, 0 and 2, and one of -2: outcomes and process rewards are 1 or -1 once normalised.
    expected = np.zeros((3, 4))
    expected[0, [0, 2, 3]] = 4 / 3**0.7, 2 / 2**0.7, 2.0
    expected[1, 0] = -2.0
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-6)

    for changed, name in (({"scale_rewards": "none"}, "pass"), ({}, "turn"), ({}, "other")):
        level = {"advantage_level": "turn"} if name == "turn" else {}
        choice = {"advantage": name} if name == "other" else {}
        with pytest.raises(ValueError, match=r"advantage_level and|choose from capo, pass"):
            Recording(args=config(tmp_path, **changed), **arguments | level | choice)


def test_masked_truncated_completions_have_no_advantage(tmp_path: Path, tiny: str) -> None:
    reward = CapoReward(reference="answer", **OPTIONS)
    trainer = Recording(
        model=tiny,
        reward_funcs=reward,
        train_dataset=data(),
        args=config(
            tmp_path, max_steps=1, mask_truncated_completions=True, max_completion_length=24
        ),
    )
    trainer.train()
    [(scored, output)] = trainer.scored
    cut = output["completion_mask"].sum(1) == 0
    assert cut.any(), "no completion was truncated"
    assert (output["advantages"][cut] == 0).all() and len(scored) == 4
    assert all(len(s.token_rewards) <= 24 for s in scored)


def test_groups_spread_over_two_processes_are_normalised_together(
    tmp_path: Path, tiny: str
) -> None:
    script = Path(__file__).with_name("trl_two_processes.py")
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc_per_node",
        "2",
        "--master_port",
        str(free_port()),
        str(script),
        str(tmp_path),
        tiny,
    ]
    subprocess.run(command, check=True, timeout=500, env=os.environ | {"OMP_NUM_THREADS": "1"})
    ranks = [json.loads((tmp_path / f"rank{n}.json").read_text()) for n in range(2)]
    rewards = [row for rank in ranks for row in rank["rewards"]]
    width = max(len(rank["advantages"][0]) for rank in ranks)
    found = np.array(
        [row + [0.0] * (width - len(row)) for rank in ranks for row in rank["advantages"]]
    )
    mask = np.array([[n < len(row) for n in range(width)] for row in rewards])
    assert len(found) == 4  # one group, two rows on each process
    np.testing.assert_allclose(found, eq_2(rewards, mask), atol=1e-5)
    assert np.abs(found).sum() > 0


def test_url_of_the_service_is_taken_from_the_environment() -> None:
    assert CapoReward(reference="answer").scorer.url == URL


CALL = '<tool_call>\n{"name": "%s", "arguments": {"%s": "3 * 4 - 2"}}\n</tool_call>'
ANSWER = "So 10 are left.\n\n#### 10"
WRONG = "It is 3.\n\n#### 3"


def calculate(expression: str) -> str:
    """Calculate.

    Args:
        expression: what to calculate.
    """
    return f"the tool says {eval(expression)}"


class Desk:
    """An environment with a tool of its own."""

    def reset(self, **_: Any) -> str:
        self.asked: list[str] = []
        return " (The desk is open.)"

    def ask(self, sum: str) -> str:
        """Ask the clerk.

        Args:
            sum: what to calculate.
        """
        self.asked.append(sum)
        return f"the clerk says {eval(sum)}"


class Library(Desk):
    def ask(self, book: str) -> str:
        """Ask the librarian.

        Args:
            book: what to look up.
        """
        return "there is no such book"


@pytest.fixture(scope="module")
def tooled(tmp_path_factory: pytest.TempPathFactory, tiny: str) -> str:
    """The tiny model with Qwen's chat template, which can render tools."""
    folder = tmp_path_factory.mktemp("tooled")
    shutil.copytree(tiny, folder, dirs_exist_ok=True)
    templates = Path(trl.__file__).parent / "chat_templates"
    shutil.copy(templates / "qwen2_5.jinja", folder / "chat_template.jinja")
    return str(folder)


class Scripted:
    """Replaces sampling alone: a call, and after the tool's result the answer; the first row of
    each group answers wrongly at once. TRL executes the tools and makes the mask."""

    def _generate_single_turn(self, prompt_ids: Any, *_: Any, **__: Any) -> Any:
        tokenizer = self._tokenizer  # type: ignore[attr-defined]
        texts = []
        for row, ids in enumerate(prompt_ids):
            prompt = tokenizer.decode(ids)
            name, argument = "ask", "sum" if "the clerk" in prompt else "book"
            if '"calculate"' in prompt:
                name, argument = "calculate", "expression"
            answered = "<tool_response>" in prompt
            texts.append(ANSWER if answered else WRONG if row % 4 == 0 else CALL % (name, argument))
        ids = [[*tokenizer.encode(text), tokenizer.eos_token_id] for text in texts]
        return ids, None


class ScriptedCapo(Scripted, Recording):
    pass


class ScriptedTRL(Scripted, GRPOTrainer):
    pass


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def shown_of(line: dict[str, Any]) -> str:
    spans = [each["span"] for each in line["credit"]["observations"] or ()]
    return "".join(line["response"][a:b] for a, b in spans)


def names_of(line: dict[str, Any]) -> list[str]:
    return [each["function"]["name"] for each in line["tools"]]


def check_tokens(trainer: Any, tokenizer: Any, answered: str, level: str) -> None:
    """Each token of the policy has its own reward, and what the tool wrote has none."""
    [(scored, output)] = trainer.scored
    own = output["completion_mask"].bool() & output["tool_mask"].bool()
    rewards = torch.zeros(own.shape)
    for row, one in enumerate(scored):
        mask = output["tool_mask"][row][output["completion_mask"][row].bool()]
        assert len(one.token_rewards) == len(mask)
        rewards[row, : len(mask)] = torch.tensor(one.token_rewards)
        written = output["completion_ids"][row][: len(mask)][mask == 0]
        assert (answered in tokenizer.decode(written)) == (one.outcome == 1.0)
    assert (rewards[~own] == 0).all()
    groups = [row // 4 for row in range(len(own))]
    expected = token_advantages(rewards, own, groups, "group", level)
    torch.testing.assert_close(output["advantages"], expected)
    assert (output["advantages"][~own] == 0).all() and output["advantages"].abs().sum() > 0


@pytest.mark.parametrize("level", ["token", "turn"])
def test_turns_around_trl_s_tools_get_their_own_rewards(
    tmp_path: Path, tooled: str, tokenizer: Any, level: Any
) -> None:
    path = tmp_path / "rollouts.jsonl"
    reward = CapoReward(
        reference="answer", rollouts_file=str(path), **OPTIONS | {"segment": {"method": "turn"}}
    )
    trainer = ScriptedCapo(
        model=tooled,
        reward_funcs=reward,
        tools=[calculate],
        advantage_level=level,
        args=config(tmp_path, max_steps=1, max_completion_length=160),
        train_dataset=data().select([0]),
    )
    trainer.train()
    lines = lines_of(path)
    assert [line["credit"]["outcome"]["value"] for line in lines] == [0.0, 1.0, 1.0, 1.0]
    for line in lines:
        assert names_of(line) == ["calculate"]
        assert line["messages"] == [{"role": "user", "content": QUESTIONS[0][0]}]
        turns = [step["turn"] for step in line["credit"]["steps"]]
        assert turns == ([0, 1] if line["credit"]["outcome"]["value"] else [0])
        assert ("the tool says 10" in shown_of(line)) == (turns == [0, 1])
        assert "<tool_call>" not in shown_of(line)
    check_tokens(trainer, tokenizer, "the tool says 10", level)


def test_each_environment_s_tools_and_its_outcome(
    tmp_path: Path, tooled: str, tokenizer: Any
) -> None:
    path = tmp_path / "rollouts.jsonl"

    def solved(environments: Any, completions: Any, **_: Any) -> list[float]:
        assert len(environments) == len(completions) == 8
        return [float(bool(environment.asked)) for environment in environments]

    reward = CapoReward(outcome=solved, rollouts_file=str(path), **OPTIONS)
    rows = [
        row | {"environment": name}
        for row, name in zip(data().select([0, 1]), ["desk", "library"], strict=True)
    ]
    trainer = ScriptedCapo(
        model=tooled,
        reward_funcs=reward,
        train_dataset=Dataset.from_list(rows),
        environment_factory={"desk": Desk, "library": Library},
        args=config(
            tmp_path, max_steps=1, max_completion_length=160, per_device_train_batch_size=8
        ),
    )
    trainer.train()
    lines = lines_of(path)
    assert len(lines) == 8
    for line in lines:
        [question] = line["messages"]
        assert question["content"].endswith(" (The desk is open.)")
        at_desk = question["content"].startswith(QUESTIONS[0][0])
        [tool] = line["tools"]
        assert list(tool["function"]["parameters"]["properties"]) == ["sum" if at_desk else "book"]
        asked = "the clerk says 10" in shown_of(line)
        assert line["credit"]["outcome"] == {
            "value": float(asked),
            "source": "caller",
            "reason": None,
            "detail": None,
        }
        assert at_desk or not asked
    check_tokens(trainer, tokenizer, "the clerk says 10", "token")


def test_trl_s_own_trainer_sends_turns_with_their_tool_calls(tmp_path: Path, tooled: str) -> None:
    path = tmp_path / "rollouts.jsonl"
    reward = CapoReward(
        reference="answer",
        tools=[calculate],
        rollouts_file=str(path),
        **OPTIONS | {"segment": {"method": "turn"}},
    )
    trainer = ScriptedTRL(
        model=tooled,
        reward_funcs=reward,
        tools=[calculate],
        train_dataset=data().select([0]),
        args=config(tmp_path, max_steps=1, max_completion_length=160),
    )
    trainer.train()
    for number, (line, scored) in enumerate(zip(lines_of(path), reward.last, strict=True)):
        assert names_of(line) == ["calculate"]
        assert scored.token_rewards is None and scored.outcome == float(number > 0)
        assert scored.steps == (2 if number else 1)
        if number:
            assert shown_of(line).strip() == "tool (calculate): the tool says 10"
            assert '"name": "calculate"' in line["response"]


async def test_an_outcome_function_gives_one_number_per_rollout(tokenizer: Any) -> None:
    reward = CapoReward(outcome=lambda **_: [1.0], tokenizer=tokenizer, **OPTIONS)
    with pytest.raises(ValueError, match="1 numbers for 2 rollouts"):
        await reward(["?"] * 2, ["x"] * 2, [[1]] * 2)
