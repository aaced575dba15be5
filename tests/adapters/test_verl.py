"""verl's own DataProto, reward loop, agent loop and TransferQueue under a local Ray, on CPU."""

from __future__ import annotations

import json
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


def sampled(
    settings: Any, client: Any, count: int, fields: list[str], **columns: list[Any]
) -> tuple[list[str], Any]:
    """Keys and fields of what verl's own workers put into TransferQueue for `count` questions."""
    import transfer_queue as tq
    from verl.utils import tensordict_utils as tu

    settings.transfer_queue.enable = True
    settings.transfer_queue.backend.SimpleStorage.num_data_storage_units = 1
    tq.init(settings.transfer_queue)
    rewards = RewardLoopManager(settings)
    try:
        manager_class = load_class_from_fqn(
            settings.actor_rollout_ref.rollout.agent.agent_loop_manager_class
        )
        manager = manager_class.create(
            config=settings, llm_client=client,
            reward_loop_worker_handles=rewards.reward_loop_worker_handles,
        )  # fmt: skip
        prompts = tu.get_tensordict(
            {
                "dummy": torch.zeros(count, 1),
                "uid": [f"q{n}" for n in range(count)],
                "index": list(range(count)),
                "raw_prompt": [[{"role": "user", "content": q}] for q, _ in QUESTIONS[:count]],
                "reward_model": [{"ground_truth": a, "style": "rule"} for _, a in QUESTIONS[:count]],
                "data_source": ["ours"] * count,
                "extra_info": [{}] * count,
            } | columns,
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
        return keys, tq.kv_batch_get(keys=keys, partition_id="train", select_fields=fields)
    finally:
        tq.close()
        for reward_worker in rewards.reward_loop_workers:
            ray.kill(reward_worker)  # its name is the next manager's
        until = time.monotonic() + 60
        while any("reward_loop_worker" in name for name in ray.util.list_named_actors()):
            assert time.monotonic() < until
            time.sleep(0.2)


def test_verl_s_agent_loop_keeps_the_tokens_rewards(local_ray: None, tokenizer: Any) -> None:
    """Rollouts are sampled, scored one by one and put into TransferQueue by verl's own workers."""
    from kit_verl import Client

    settings = config()
    names = ["responses", "response_mask", "rm_scores", "extra_fields"]
    keys, data = sampled(settings, Client(settings), 2, names)
    assert keys == [f"q{q}_{n}_0" for q in range(2) for n in range(2)]
    extra = [getattr(each, "data", each) for each in data["extra_fields"]]
    dense = 0
    for row in range(len(keys)):
        scores, ids = data["rm_scores"][row], data["responses"][row]
        info = extra[row]["reward_extra_info"]
        assert not {"capo", "capo_position", "capo_validating"} & set(extra[row])
        assert len(scores) == len(ids)
        assert set(scores.tolist()) <= {2 * info["acc"], 2 * info["acc"] - 1}
        assert (2 * info["acc"] - 1 in scores.tolist()) == (info["capo_wrong_steps"] > 0)
        dense += int((scores != 0).sum() > 1)
    assert dense, "no rollout had a reward on more than one token"


def test_verl_s_tool_agent_loop_and_a_compacted_context(
    local_ray: None, tokenizer: Any, tmp_path: Path
) -> None:
    """verl's own tool agent loop, and one with several outputs; the policy's turns are scripted."""
    from kit_verl import ANSWER, CALL, LOOPS, TOOL, Scripted
    from verl.trainer.ppo.v1.utils import compute_advantage_for_multi_trajectories

    path, tool, loops = (tmp_path / name for name in ("rollouts.jsonl", "tool.py", "loops.yaml"))
    tool.write_text(TOOL)
    loops.write_text(LOOPS)
    settings = config(rollouts_file=str(path), segment={"method": "turn"})
    rollout = settings.actor_rollout_ref.rollout
    rollout.response_length, rollout.prompt_length = 256, 256
    rollout.multi_turn.function_tool_path = str(tool)
    rollout.agent.agent_loop_config_path = str(loops)
    names = ["responses", "response_mask", "rm_scores", "extra_fields", "uid"]
    loop_names = ["tool_agent", "compacting"]
    keys, data = sampled(settings, Scripted(settings), 2, names, agent_name=loop_names)
    assert keys == ["q0_0_0", "q0_1_0", "q1_0_0", "q1_0_1", "q1_1_0", "q1_1_1"]

    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(lines) == 4
    for line in lines:
        assert [step["turn"] for step in line["credit"]["steps"]] == [0, 1]
        assert [each["function"]["name"] for each in line["tools"]] == ["calculate"]
        spans = [each["span"] for each in line["credit"]["observations"]]
        shown = "".join(line["response"][a:b] for a, b in spans)
        of_tool = line["messages"][0]["content"] == QUESTIONS[0][0]
        assert "the tool says 10" in shown if of_tool else "Summary: I called it." in shown
        assert CALL not in shown and ANSWER not in shown
        own = [line["response"][a:b] for a, b in (step["span"] for step in line["credit"]["steps"])]
        assert CALL in own[0] and ANSWER in own[1]
        assert line["credit"]["outcome"]["value"] == float(of_tool)

    rows = [[data[name][row] for name in names[:3]] for row in range(len(keys))]
    for key, (ids, mask, scores) in zip(keys, rows, strict=True):
        assert len(ids) == len(mask) == len(scores)
        assert (scores[mask == 0] == 0).all()
        outcome = float(key.startswith("q0"))
        assert set(scores[mask == 1].tolist()) <= {2 * outcome, 2 * outcome - 1}
        assert bool((mask == 0).any()) == key.startswith("q0")
        if key.startswith("q0"):
            assert "the tool says 10" in tokenizer.decode(ids[mask == 0])
    # All sequences of a question are one group, in verl's own function.
    width = max(len(ids) for ids, _, _ in rows)

    def padded(column: int) -> torch.Tensor:
        columns = [row[column] for row in rows]
        return torch.stack([torch.nn.functional.pad(c, (0, width - len(c))) for c in columns])

    uids = np.array([key.split("_")[0] for key in keys], dtype=object)
    batched = DataProto(
        batch=TensorDict(
            {"response_mask": padded(1), "token_level_rewards": padded(2).float()},
            batch_size=len(keys),
        ),
        non_tensor_batch={"uid": uids},
    )
    batched.batch["token_level_rewards"][3, :2] -= 1.0  # whatever the judge said, q1 has two kinds
    made = compute_advantage_for_multi_trajectories(
        batched, batch_keys=keys, adv_estimator="capo", config=settings.algorithm
    ).batch
    for uid in ("q0", "q1"):
        rows_of = torch.tensor([each == uid for each in uids])
        chosen = made["response_mask"][rows_of].bool()
        values = made["token_level_rewards"][rows_of][chosen].double()
        spread = values.std(correction=0)
        expected = (values - values.mean()) / spread if spread > 0 else torch.zeros_like(values)
        found = made["advantages"][rows_of]
        torch.testing.assert_close(found[chosen], expected.float())
        assert (found[~chosen] == 0).all()


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
    made.tools = []
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


async def test_each_token_of_each_sequence_gets_its_own_reward(tokenizer: Any) -> None:
    from capo_client.adapters.scoring import Scored

    manager: Any = load_reward_manager(config(), tokenizer)
    sent: list[Any] = []

    async def numbered(samples: Any) -> list[Scored]:
        sent.extend(samples)
        rewards = [n + 1.0 if own else 0.0 for n, own in enumerate(samples[0].mask)]
        return [Scored(rewards, 1.5, outcome=1.0)]

    manager.scorer.score = numbered
    first_parts = [("A long first part, and more of it.", 1), ("The tool says 5.", 0)]
    outputs = Outputs(tokenizer, [first_parts, [("42", 1), ("!", 0)], [("So 43", 1)]]).made
    prompt = outputs[0].prompt_ids
    summary = tokenizer.encode("Summary: five.")
    outputs[1].prompt_ids = prompt + summary
    outputs[2].prompt_ids = outputs[1].prompt_ids + outputs[1].response_ids + summary[:2]
    ids, masks = [o.response_ids for o in outputs], [o.response_mask for o in outputs]
    await worker(manager)._compute_score(outputs, FIELDS)
    [sample] = sent
    assert list(sample.ids) == [*ids[0], *summary, *ids[1], *summary[:2], *ids[2]]
    between = [[0] * len(summary), [0, 0], []]
    flags = [flag for mask, more in zip(masks, between, strict=True) for flag in [*mask, *more]]
    assert list(sample.mask) == flags
    for output in outputs[:-1]:
        output.reward_score = outputs[-1].reward_score  # as verl does next
    start = 0
    for output, mask, more in zip(outputs, masks, between, strict=True):
        found = output.as_dict()
        expected = [start + n + 1.0 if own else 0.0 for n, own in enumerate(mask)]
        assert found["rm_scores"].tolist() == expected
        assert found["response_mask"].tolist() == mask
        assert "capo_position" not in found["extra_fields"]
        start += len(mask) + len(more)


async def test_several_sequences_are_judged_as_one_trajectory(tokenizer: Any) -> None:
    """By the real service; without credit, no token of any of them trains."""
    manager: Any = load_reward_manager(config(segment={"method": "turn"}), tokenizer)
    for text, credited in (("42", True), ("It is so. " * 50_000, False)):
        outputs = Outputs(tokenizer, [[("Let me see.", 1), ("x", 0)], [(text, 1)]]).made
        outputs[1].prompt_ids = outputs[1].prompt_ids * 5
        await worker(manager)._compute_score(outputs, FIELDS)
        info = outputs[1].extra_fields["reward_extra_info"]
        outputs[0].reward_score = outputs[1].reward_score
        found = [output.as_dict() for output in outputs]
        for each, output in zip(found, outputs, strict=True):
            assert len(each["rm_scores"]) == len(output.response_ids)
            assert bool(each["response_mask"].any()) == credited
        if credited:
            assert (info["acc"], info["capo_steps"]) == (1.0, 2)
            assert found[0]["rm_scores"][-1] == 0.0 and (found[1]["rm_scores"] >= 1.0).all()
        else:
            assert info["capo_fallback"] == 1


async def test_an_agent_loop_s_own_reward_is_the_outcome(tokenizer: Any) -> None:
    """As of agents whose environment runs the tests; verl then skips its reward loop."""
    manager: Any = load_reward_manager(config(), tokenizer)
    outputs = Outputs(tokenizer, [TOOLS]).made
    outputs[0].reward_score = 0.5
    await worker(manager)._compute_score(outputs, FIELDS)
    assert outputs[0].extra_fields["reward_extra_info"]["acc"] == 0.5
    found = outputs[0].as_dict()
    assert set(found["rm_scores"][found["response_mask"].bool()].tolist()) <= {1.0, 0.0}
    colocated: Any = worker(manager)
    colocated.reward_loop_worker_handles = None  # verl scores later, with its own reward model
    outputs = Outputs(tokenizer, [TOOLS]).made
    outputs[0].reward_score = 0.5
    await colocated._compute_score(outputs, FIELDS)
    assert outputs[0].reward_score == 0.5 and outputs[0].extra_fields == {}


async def test_a_reward_function_gets_what_the_agent_loop_has(
    tokenizer: Any, tmp_path: Path
) -> None:
    file = tmp_path / "rule.py"
    file.write_text(
        "def compute_score(data_source, solution_str, ground_truth, extra_info=None):\n"
        "    assert extra_info['num_turns'] == 4 and 'capo' not in extra_info\n"
        "    assert solution_str == 'last', solution_str\n"
        "    return extra_info['turn_scores'][0]\n"
    )
    settings = config(outcome_from="compute_score")
    settings.reward.custom_reward_function.path = str(file)
    manager: Any = load_reward_manager(settings, tokenizer)
    outputs = Outputs(tokenizer, [[("first", 1)], [("last", 1)]]).made
    outputs[1].extra_fields["turn_scores"] = [0.5]
    await worker(manager)._compute_score(outputs, FIELDS)
    assert outputs[1].extra_fields["reward_extra_info"]["acc"] == 0.5
    assert outputs[1].extra_fields["turn_scores"] == [0.5]


async def test_the_judge_is_told_the_tools_of_the_configuration(tokenizer: Any) -> None:
    from verl.tools.function_tool import FunctionTool
    from verl.tools.schemas import OpenAIFunctionToolSchema

    def tool(name: str) -> FunctionTool:
        parameters = {"type": "object", "properties": {}, "required": []}
        function = {"name": name, "description": "Does it.", "parameters": parameters}
        schema = OpenAIFunctionToolSchema(type="function", function=function)
        return FunctionTool(name=name, fn=print, tool_schema=schema)

    manager: Any = load_reward_manager(config(), tokenizer)
    sent: list[Any] = []
    score = manager.scorer.score

    async def recorded(samples: Any) -> Any:
        sent.extend(samples)
        return await score(samples)

    manager.scorer.score = recorded
    made = worker(manager)
    made.tools = [tool("search"), tool("calculate")]
    for extra in ({}, {"tool_selection": ["calculate"]}):
        outputs = Outputs(tokenizer, [TOOLS]).made
        await made._compute_score(outputs, FIELDS | {"extra_info": extra})
        assert outputs[0].extra_fields["reward_extra_info"]["capo_fallback"] == 0
    names = [[each["function"]["name"] for each in sample.tools] for sample in sent]
    assert names == [["search", "calculate"], ["calculate"]]


@pytest.mark.parametrize(("estimator", "mean"), [("capo", 7 / 6), ("capo_turn", 4 / 3)])
def test_masked_tokens_and_rows_without_credit_count_nowhere(estimator: str, mean: float) -> None:
    mask = torch.tensor([[1, 1, 1, 0, 0, 1], [1, 1, 0, 0, 0, 0], [1, 1, 1, 1, 1, 1]])
    rewards = torch.tensor(
        [[1.0, 1.0, 1.0, 9.0, 9.0, 2.0], [1.0, 1.0, 0.0, 0.0, 0.0, 0.0], [torch.nan] * 6]
    )
    advantages, returns = get_adv_estimator_fn(estimator)(
        token_level_rewards=rewards, response_mask=mask, index=["a"] * 3,
        config={"norm_adv_by_std_in_grpo": False},
    )  # fmt: skip
    own = mask.bool() & ~rewards.isnan()
    torch.testing.assert_close(advantages[own], rewards[own] - mean)
    assert (advantages[~own] == 0).all() and (returns[~own] == 0).all()
    torch.testing.assert_close(returns[own], rewards[own])


async def test_validation_leaves_out_what_is_not_known(tokenizer: Any) -> None:
    """verl averages all that is not None there; its training (DAPO's filter) reads numbers only."""
    from verl.trainer.ppo.metric_utils import process_validation_metrics

    from capo_client.adapters._verl_agent_loop import VALIDATING_FIELD

    manager: Any = load_reward_manager(config(), tokenizer)
    long = "It is so. " * 50_000  # more characters than the service takes
    infos = []
    for validating in (True, False):
        for text in ("42", long):
            outputs = Outputs(tokenizer, [[(text, 1)]]).made
            outputs[0].extra_fields[VALIDATING_FIELD] = (
                validating  # as _agent_loop_postprocess does
            )
            await worker(manager)._compute_score(outputs, FIELDS)
            assert set(outputs[0].as_dict()["extra_fields"]) == {"reward_extra_info"}
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
    score = TokenScore(1.0, [[1.0] * (size + more)])
    with pytest.raises(ValueError, match=f"{size + more} token rewards for {size} tokens"):
        CapoRewardManager.assemble_rm_scores(data, [score])


def test_a_score_is_a_number_that_remembers() -> None:
    score = pickle.loads(pickle.dumps(TokenScore(1.5, [[1.0, 2.0], [3.0]])))
    assert score == 1.5 and score.sequences == [[1.0, 2.0], [3.0]]
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
    assert (
        after["reward_extra_info"]["capo_fallback"] == 1 and after["reward_score"].sequences is None
    )
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
    assert set(result["reward_score"].sequences[0]) <= {1.0, 0.0}
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
