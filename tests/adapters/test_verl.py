"""verl's own DataProto, reward loop, agent loop and TransferQueue under a local Ray, on CPU."""

from __future__ import annotations

import os
import pickle
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
import torch
import verl
from hydra import compose, initialize_config_dir
from kit_adapters import MODEL, NOWHERE, QUESTIONS, URL, cable
from omegaconf import OmegaConf
from tensordict import TensorDict
from transformers import AutoTokenizer
from verl import DataProto
from verl.experimental.reward_loop.reward_loop import RewardLoopManager
from verl.trainer.ppo.core_algos import get_adv_estimator_fn, get_policy_loss_fn
from verl.trainer.ppo.ray_trainer import compute_advantage
from verl.trainer.ppo.reward import load_reward_manager
from verl.utils.config import omega_conf_to_dataclass
from verl.utils.import_utils import load_class_from_fqn

from capo_client import UnavailableError
from capo_client.adapters.verl import TokenScore

HERE = str(Path(__file__).parent)
LINES = [
    "reward.reward_manager.source=importlib",
    "reward.reward_manager.module.path=pkg://capo_client.adapters.verl",
    "reward.reward_manager.name=CapoRewardManager",
    "+actor_rollout_ref.rollout.agent.agent_loop_manager_class="
    "capo_client.adapters.verl.CapoAgentLoopManager",
    "algorithm.adv_estimator=capo",
]
TEXTS = [
    "3 * 4 = 12. Less 2 is 10.\n\n#### 10",
    "It is 3 + 4 = 7.\n\nSo 7 - 2 = 5.\n\n#### 5",
    "First 12.\n\nThen 10.\n\n#### 10",
    "Ten.",
]  # fmt: skip


def config(**capo: Any) -> Any:
    settings = {"url": URL, "voting": {"n": 3}, "segment": {"method": "sentence"}} | capo
    folder = str(Path(verl.__file__).parent / "trainer" / "config")
    with initialize_config_dir(config_dir=folder, version_base=None):
        made = compose(
            "ppo_trainer",
            overrides=[
                *LINES, f"actor_rollout_ref.model.path={MODEL}", "reward.num_workers=1",
                "actor_rollout_ref.rollout.name=vllm", "actor_rollout_ref.rollout.n=2",
                "actor_rollout_ref.rollout.prompt_length=96", "actor_rollout_ref.rollout.response_length=40",
                "actor_rollout_ref.rollout.agent.num_workers=1", "trainer.device=cpu",
                "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=4",
            ],
        )  # fmt: skip
    OmegaConf.set_struct(made, False)
    made.reward.reward_kwargs = {"capo": settings}
    return made


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(MODEL)


@pytest.fixture(scope="module")
def local_ray() -> Iterator[None]:
    ray.init(  # here, whatever other cluster Ray may remember
        "local", num_cpus=6, include_dashboard=False, log_to_driver=True,
        runtime_env={"env_vars": {"PYTHONPATH": HERE, "OMP_NUM_THREADS": "1"}},
    )  # fmt: skip
    yield
    ray.shutdown()


def batch(tokenizer: Any, texts: list[str], width: int = 48) -> DataProto:
    """A group of one question, left-padded prompts and right-padded responses, as verl has them."""
    question, answer = QUESTIONS[0]
    prompt = tokenizer.encode(question)
    responses = [[*tokenizer.encode(text), tokenizer.eos_token_id][:width] for text in texts]
    pad = tokenizer.pad_token_id or 0
    left = 4
    prompts = torch.tensor([[pad] * left + prompt] * len(texts))
    padded = torch.tensor([ids + [pad] * (width - len(ids)) for ids in responses])
    prompt_mask = torch.tensor([[0] * left + [1] * len(prompt)] * len(texts))
    mask = torch.tensor([[1] * len(ids) + [0] * (width - len(ids)) for ids in responses])
    return DataProto(
        batch=TensorDict(
            {
                "prompts": prompts, "responses": padded, "response_mask": mask,
                "attention_mask": torch.cat([prompt_mask, mask], 1),
                "input_ids": torch.cat([prompts, padded], 1),
            },
            batch_size=len(texts),
        ),
        non_tensor_batch={
            "raw_prompt": np.array([[{"role": "user", "content": question}]] * len(texts) + [None], object)[:-1],
            "reward_model": np.array([{"ground_truth": answer, "style": "rule"}] * len(texts), object),
            "data_source": np.array(["ours"] * len(texts), object),
            "extra_info": np.array([{"question": question}] * len(texts), object),
            "uid": np.array(["one"] * len(texts), object),
        },
    )  # fmt: skip


def test_verl_s_reward_loop_gives_dense_scores_and_advantages(
    local_ray: None, tokenizer: Any
) -> None:
    data = batch(tokenizer, TEXTS)
    manager = RewardLoopManager(config())
    scored = manager.compute_rm_score(data)
    data = data.union(scored)
    rewards, mask = data.batch["rm_scores"], data.batch["response_mask"].bool()
    assert rewards.shape == data.batch["responses"].shape
    assert (rewards[~mask] == 0).all()
    for row in range(len(TEXTS)):
        wrong = int(data.non_tensor_batch["capo_wrong_steps"][row])
        outcome = data.non_tensor_batch["acc"][row]
        values = set(rewards[row][mask[row]].tolist())
        assert values <= {2 * outcome, 2 * outcome - 1}
        assert (2 * outcome - 1 in values) == (wrong > 0)
    assert list(data.non_tensor_batch["acc"]) == [1, 0, 1, 0]
    assert set(scored.meta_info["reward_extra_keys"]) >= {
        "acc",
        "capo_wrong_step_rate",
        "capo_fallback",
    }

    data.batch["token_level_rewards"] = rewards
    data = compute_advantage(data, adv_estimator="capo", config=config().algorithm)
    chosen = rewards[mask].double()
    expected = ((rewards.double() - chosen.mean()) / chosen.std(correction=0)) * mask
    torch.testing.assert_close(data.batch["advantages"], expected.float())


def test_a_policy_loss_of_verl_takes_the_advantages(tokenizer: Any) -> None:
    """As far as CPU goes: verl's loss on SmolLM2's log-probabilities, and a step down its gradient."""
    from kit_verl import policy

    data = batch(tokenizer, TEXTS)
    mask = data.batch["response_mask"]
    rewards = (
        torch.where(torch.rand(mask.shape, generator=torch.manual_seed(0)) < 0.3, 1.0, 2.0) * mask
    )
    advantages, _ = get_adv_estimator_fn("capo")(
        token_level_rewards=rewards, response_mask=mask, index=data.non_tensor_batch["uid"]
    )
    model = policy().train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    width = mask.shape[1]

    def logprobs() -> torch.Tensor:
        out = model(data.batch["input_ids"], attention_mask=data.batch["attention_mask"]).logits
        taken = data.batch["responses"]
        return out[:, -width - 1 : -1].log_softmax(-1).gather(-1, taken[..., None]).squeeze(-1)

    old = logprobs().detach()
    actor = omega_conf_to_dataclass(config().actor_rollout_ref.actor)
    loss_fn = get_policy_loss_fn("vanilla")

    def loss(current: torch.Tensor) -> torch.Tensor:
        value, _ = loss_fn(
            old_log_prob=old, log_prob=current, advantages=advantages, response_mask=mask,
            loss_agg_mode="seq-mean-token-mean", config=actor,
        )  # fmt: skip
        return value

    first = loss(logprobs())
    first.backward()
    optimizer.step()
    after = logprobs()
    assert torch.isfinite(first) and loss(after) < first
    gain = (after - old)[mask.bool()]
    better = advantages[mask.bool()] > 0
    assert gain[better].mean() > gain[~better].mean()


def test_verl_s_agent_loop_keeps_the_tokens_rewards(local_ray: None, tokenizer: Any) -> None:
    """Rollouts are sampled, scored one by one and put into TransferQueue by verl's own workers."""
    import transfer_queue as tq
    from kit_verl import Client
    from verl.utils import tensordict_utils as tu

    settings = config()
    settings.transfer_queue.enable = True
    settings.transfer_queue.backend.SimpleStorage.num_data_storage_units = 1
    tq.init(settings.transfer_queue)
    try:
        rewards = RewardLoopManager(settings)
        manager_class = load_class_from_fqn(
            settings.actor_rollout_ref.rollout.agent.agent_loop_manager_class
        )
        manager = manager_class.create(
            config=settings, llm_client=Client(settings),
            reward_loop_worker_handles=rewards.reward_loop_worker_handles,
        )  # fmt: skip
        count = 2
        prompts = tu.get_tensordict(
            {
                "dummy": torch.zeros(count, 1),
                "uid": [f"q{n}" for n in range(count)],
                "index": list(range(count)),
                "raw_prompt": [[{"role": "user", "content": q}] for q, _ in QUESTIONS[:count]],
                "reward_model": [{"ground_truth": a, "style": "rule"} for _, a in QUESTIONS[:count]],
                "data_source": ["ours"] * count,
                "extra_info": [{}] * count,
            },
            non_tensor_dict={"global_steps": 1},
        )  # fmt: skip
        tags = [{"is_prompt": True, "status": "pending", "global_steps": 1}] * count
        tq.kv_batch_put(keys=[f"q{n}" for n in range(count)], partition_id="train", tags=tags)
        manager.generate_sequences(prompts)
        until = time.monotonic() + 240
        while True:
            found = tq.kv_list()["train"]
            states = {key: tag.get("status") for key, tag in found.items()}
            assert "failure" not in states.values(), states
            if all(states.get(f"q{n}") == "finished" for n in range(count)):
                break
            assert time.monotonic() < until, states
            time.sleep(0.5)
        keys = sorted(key for key, state in states.items() if state == "success")
        assert keys == [f"q{q}_{n}_0" for q in range(2) for n in range(2)]
        data = tq.kv_batch_get(
            keys=keys, partition_id="train",
            select_fields=["responses", "response_mask", "rm_scores", "extra_fields"],
        )  # fmt: skip
        extra = [getattr(each, "data", each) for each in data["extra_fields"]]
        dense = 0
        for row in range(len(keys)):
            scores, ids = data["rm_scores"][row], data["responses"][row]
            info = extra[row]["reward_extra_info"]
            assert len(scores) == len(ids)
            assert set(scores.tolist()) <= {2 * info["acc"], 2 * info["acc"] - 1}
            assert (2 * info["acc"] - 1 in scores.tolist()) == (info["capo_wrong_steps"] > 0)
            dense += int((scores != 0).sum() > 1)
        assert dense, "no rollout had a reward on more than one token"
    finally:
        tq.close()


def test_a_score_is_a_number_that_remembers() -> None:
    score = pickle.loads(pickle.dumps(TokenScore(1.5, [1.0, 2.0])))
    assert score == 1.5 and score.tokens == [1.0, 2.0]
    assert torch.tensor([score]).item() == 1.5


def test_a_service_that_is_down_at_the_start_is_named(tokenizer: Any) -> None:
    with pytest.raises(UnavailableError, match=NOWHERE):
        load_reward_manager(config(url=NOWHERE), tokenizer)


async def test_a_service_that_goes_away_is_counted_and_left_out(tokenizer: Any) -> None:
    with cable() as way:
        manager: Any = load_reward_manager(config(url=way.url, deadline=2), tokenizer)
        data = batch(tokenizer, TEXTS[:2])
        before = await manager.run_single(data[0:1])
        way.cut()
        after = await manager.run_single(data[1:2])
    assert before["reward_extra_info"]["capo_fallback"] == 0
    assert after["reward_extra_info"]["capo_fallback"] == 1 and after["reward_score"].tokens is None
    rewards = manager.assemble_rm_scores(data, [before["reward_score"], after["reward_score"]])
    assert rewards[1].isnan().all()
    mask = data.batch["response_mask"]
    advantages, returns = get_adv_estimator_fn("capo")(
        token_level_rewards=rewards, response_mask=mask, index=["a", "a"]
    )
    assert (advantages[1] == 0).all() and not advantages.isnan().any() and not returns.isnan().any()


async def test_outcomes_of_verl_s_own_reward_function(tokenizer: Any, tmp_path: Path) -> None:
    file = tmp_path / "rule.py"
    file.write_text(
        "def compute_score(data_source, solution_str, ground_truth, extra_info=None):\n    return 0.5\n"
    )
    settings = config(outcome_from="compute_score", question_key="question")
    settings.reward.custom_reward_function.path = str(file)
    manager: Any = load_reward_manager(settings, tokenizer)
    result = await manager.run_single(batch(tokenizer, TEXTS[:1]))
    assert result["reward_extra_info"]["acc"] == 0.5
    assert set(result["reward_score"].tokens) <= {1.0, 0.0}
    file.write_text(file.read_text().replace("0.5", "7"))
    manager = load_reward_manager(settings, tokenizer)
    with pytest.raises(ValueError, match=r"compute_score gave 7.0"):
        await manager.run_single(batch(tokenizer, TEXTS[:1]))


def test_sparse_rewards_are_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    rewards = torch.zeros(2, 4)
    rewards[:, -1] = 1.0
    get_adv_estimator_fn("capo")(
        token_level_rewards=rewards, response_mask=torch.ones(2, 4), index=["a", "a"]
    )
    assert "agent_loop_manager_class" in caplog.text


def test_the_yaml_of_the_recipe_composes_with_verl_s_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CAPO_URL", URL)
    theirs = Path(verl.__file__).parent / "trainer" / "config"
    ours = Path(__file__).parents[2] / "recipes" / "verl"
    with initialize_config_dir(config_dir=str(ours), version_base=None):
        made = compose("capo", overrides=[f"hydra.searchpath=[file://{theirs}]"])
    assert made.algorithm.adv_estimator == "capo" and made.data.train_batch_size
    assert made.reward.reward_manager.name == "CapoRewardManager"
    assert made.reward.reward_kwargs.capo.url == URL
    assert made.actor_rollout_ref.rollout.agent.agent_loop_manager_class.endswith("Manager")


def test_the_example_has_the_lines_that_are_tested() -> None:
    example = Path(__file__).parents[2] / "recipes" / "verl" / "run.sh"
    text = example.read_text()
    assert all(line in text for line in LINES)
    assert os.access(example, os.X_OK)
