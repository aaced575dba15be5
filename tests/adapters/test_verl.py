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


class Outputs:
    """Scripted sequences of a rollout, in the place of an agent loop's."""

    def __init__(self, tokenizer: Any, sequences: list[list[tuple[str, int]]]) -> None:
        from verl.experimental.agent_loop.agent_loop import AgentLoopMetrics, AgentLoopOutput

        self.made = []
        for sequence in sequences:
            encoded = [tokenizer.encode(text) for text, _ in sequence]
            mask = [own for (_, own), ids in zip(sequence, encoded, strict=True) for _ in ids]
            self.made.append(
                AgentLoopOutput(
                    prompt_ids=tokenizer.encode("How many?"),
                    num_turns=4,
                    extra_fields={},
                    response_ids=[token for ids in encoded for token in ids],
                    response_mask=mask,
                    metrics=AgentLoopMetrics(),
                )
            )


class Remote:
    """The reward loop's worker without Ray."""

    def __init__(self, manager: Any) -> None:
        self._manager = manager
        self.compute_score = self

    async def remote(self, data: DataProto) -> Any:
        return await self._manager.run_single(data)


def worker(manager: Any) -> Any:
    """verl's agent loop worker around a reward manager, without its engine."""
    from capo_client.adapters._verl_agent_loop import worker_class

    made: Any = object.__new__(worker_class())
    made.reward_loop_worker_handles = [Remote(manager)]
    made.processor = None
    made._get_mm_processor_kwargs = lambda audios: None
    made._compute_position_ids = lambda ids, *_: torch.arange(ids.shape[1])[None]
    return made


FIELDS = {
    "raw_prompt": [{"role": "user", "content": "How many?"}],
    "data_source": "ours",
    "reward_model": {"ground_truth": "42"},
    "extra_info": {},
}
TOOLS = [("I will look it up.", 1), ("\nThe tool says:\n#### 42\n", 0), ("I am not sure.", 1)]


async def test_what_a_tool_wrote_is_not_judged(tokenizer: Any) -> None:
    settings = config(segment={"method": "blank_line"})
    manager: Any = load_reward_manager(settings, tokenizer)
    outputs = Outputs(tokenizer, [TOOLS]).made
    mask = list(outputs[0].response_mask)
    await worker(manager)._compute_score(outputs, FIELDS)
    info, found = outputs[0].extra_fields["reward_extra_info"], outputs[0].as_dict()
    assert (info["acc"], info["capo_steps"]) == (0.0, 2)
    assert len(found["rm_scores"]) == len(mask) and found["response_mask"].tolist() == mask
    assert (found["rm_scores"][~torch.tensor(mask).bool()] == 0).all()
    plain = Outputs(tokenizer, [[(text, 1) for text, _ in TOOLS]]).made
    await worker(manager)._compute_score(plain, FIELDS)
    assert plain[0].extra_fields["reward_extra_info"]["acc"] == 1.0


async def test_the_rule_sees_the_policy_s_text_alone(tokenizer: Any, tmp_path: Path) -> None:
    file = tmp_path / "rule.py"
    file.write_text(
        "def compute_score(data_source, solution_str, ground_truth, extra_info=None):\n"
        "    return float(solution_str.split() == ['12', '5'])\n"
    )
    settings = config(outcome_from="compute_score")
    settings.reward.custom_reward_function.path = str(file)
    manager: Any = load_reward_manager(settings, tokenizer)
    outputs = Outputs(tokenizer, [[("12", 1), ("42", 0), ("5", 1)]]).made
    await worker(manager)._compute_score(outputs, FIELDS)
    assert outputs[0].extra_fields["reward_extra_info"]["acc"] == 1.0


async def test_of_several_sequences_the_last_is_judged_at_its_own_length(tokenizer: Any) -> None:
    manager: Any = load_reward_manager(config(), tokenizer)
    outputs = Outputs(
        tokenizer, [[("A long first part, and more of it.", 1), ("x", 0)], [("42", 1)]]
    )
    outputs.made[1].prompt_ids *= 5
    await worker(manager)._compute_score(outputs.made, FIELDS)
    first, last = outputs.made
    assert last.extra_fields["reward_extra_info"]["acc"] == 1.0
    first.reward_score = last.reward_score  # as verl does next
    mask, scores = first.as_dict()["response_mask"], first.as_dict()["rm_scores"]
    torch.testing.assert_close(scores, mask * torch.tensor(float(last.reward_score)))
    assert len(last.as_dict()["rm_scores"]) == len(last.response_ids)


async def test_validation_leaves_out_what_is_not_known(tokenizer: Any) -> None:
    """verl averages all that is not None there; its training (DAPO's filter) reads numbers only."""
    from verl.trainer.ppo.metric_utils import process_validation_metrics

    from capo_client.adapters._verl_agent_loop import VALIDATING_FIELD

    manager: Any = load_reward_manager(config(), tokenizer)
    long = "It is so. " * 25_000  # more characters than the service takes
    infos = []
    for validating in (True, False):
        for text in ("42", long):
            outputs = Outputs(tokenizer, [[(text, 1)]]).made
            outputs[0].extra_fields[VALIDATING_FIELD] = (
                validating  # as _agent_loop_postprocess does
            )
            await worker(manager)._compute_score(outputs, FIELDS)
            assert set(outputs[0].extra_fields) == {"reward_extra_info"}
            infos.append(outputs[0].extra_fields["reward_extra_info"])
            if text == long:
                found = outputs[0].as_dict()
                assert not found["response_mask"].any() and not found["rm_scores"].any()
    assert infos[1]["acc"] is None and np.isnan(infos[3]["acc"])
    columns = {name: [info[name] for info in infos[:2]] for name in infos[0]}
    found = process_validation_metrics(["ours"] * 2, ["q"] * 2, columns)["ours"]
    assert found["acc"]["mean@1"] == 1.0 and found["capo_fallback"]["mean@2"] == 0.5
    assert found["capo_agreement"]["mean@1"] >= 0.5


async def test_turns_without_a_mask_are_refused(tokenizer: Any) -> None:
    manager: Any = load_reward_manager(config(), tokenizer)
    data = batch(tokenizer, TEXTS[:1])
    data.batch.pop("response_mask")
    await manager.run_single(data)  # one turn: all of it is the policy's
    data.non_tensor_batch["__num_turns__"] = np.array([4])
    with pytest.raises(ValueError, match="4 turns and no response_mask"):
        await manager.run_single(data)


@pytest.mark.parametrize("more", [-1, 1])
def test_token_rewards_of_another_number_are_refused(tokenizer: Any, more: int) -> None:
    from capo_client.adapters.verl import CapoRewardManager

    data = batch(tokenizer, TEXTS[:1])
    size = int(data.batch["response_mask"].sum())
    score = TokenScore(1.0, [1.0] * (size + more))
    with pytest.raises(ValueError, match=f"{size + more} token rewards for {size} tokens"):
        CapoRewardManager.assemble_rm_scores(data, [score])


def test_a_score_is_a_number_that_remembers() -> None:
    score = pickle.loads(pickle.dumps(TokenScore(1.5, [1.0, 2.0])))
    assert score == 1.5 and score.tokens == [1.0, 2.0]
    assert torch.tensor([score]).item() == 1.5


def test_a_service_that_is_down_at_the_start_is_named(tokenizer: Any) -> None:
    with pytest.raises(UnavailableError, match=NOWHERE):
        load_reward_manager(config(url=NOWHERE), tokenizer)


async def test_a_service_that_goes_away_is_counted_and_left_out(tokenizer: Any) -> None:
    with cable() as way:
        manager: Any = load_reward_manager(config(url=way.url, deadline=120), tokenizer)
        data = batch(tokenizer, TEXTS[:2])
        before = await manager.run_single(data[0:1])
        way.cut()
        manager.scorer.deadline = 2
        after = await manager.run_single(data[1:2])
    assert before["reward_extra_info"]["capo_fallback"] == 0
    assert after["reward_extra_info"]["capo_fallback"] == 1 and after["reward_score"].tokens is None
    unknown = set(after["reward_extra_info"]) - {"capo_fallback"}
    assert "acc" in unknown and set(after["reward_extra_info"]) == set(before["reward_extra_info"])
    assert all(np.isnan(after["reward_extra_info"][name]) for name in unknown)
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
    with pytest.raises(ValueError, match=r"compute_score returned 7.0"):
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
