"""Agents' frameworks by their documented objects, before a real service: token and turn credit."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from capo_client.adapters import areal, nemo_gym, rllm, scoring, slime, traces
from kit import tokenizer
from kit_scripted import ScriptedEngine, shown_steps
from kit_service import Service, serving, settings

GPT2 = tokenizer("gpt2")
USER = {"role": "user", "content": "What is 6 * 7?"}
CALLS = [{"id": "1", "type": "function", "function": {"name": "calc", "arguments": "{}"}}]
WRONG = {"role": "assistant", "content": "WRONG: I call it.", "tool_calls": CALLS}
TOLD = {"role": "tool", "tool_call_id": "1", "content": "The tool says 41."}
DONE = {"role": "assistant", "content": "#### 42"}
CHAT = [USER, WRONG, TOLD, DONE]


def judged(prompt: str, sampling: Any) -> str:
    """Steps with the word WRONG are wrong."""
    wrong = [number for number, text in shown_steps(prompt) if "WRONG" in text]
    return json.dumps({"incorrect_steps": wrong})


@pytest.fixture(scope="module")
def judge() -> ScriptedEngine:
    return ScriptedEngine(judged)


@pytest.fixture(scope="module")
def seen(judge: ScriptedEngine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with serving(judge, settings(tmp_path_factory.mktemp("seen"))) as running:
        yield running


@pytest.fixture(params=[{}], ids=["default"])
def default(
    seen: Service, judge: ScriptedEngine, monkeypatch: pytest.MonkeyPatch, request: Any
) -> Iterator[None]:
    """The scorer of adapters that take theirs from the environment."""
    monkeypatch.setenv("CAPO_URL", seen.url)
    monkeypatch.setenv("CAPO_OPTIONS", json.dumps(request.param))
    scoring._scorer_of.cache_clear()
    judge.prompts.clear()
    yield
    scoring._scorer_of.cache_clear()


def with_options(**options: Any) -> Any:
    return pytest.mark.parametrize("default", [options], indirect=True, ids=["options"])


def sees_the_tool(judge: ScriptedEngine) -> bool:
    """Whether the judge has the tool's answer, and never as a step."""
    steps = [text for prompt in judge.prompts for _, text in shown_steps(prompt)]
    return all("The tool says 41." in prompt for prompt in judge.prompts) and not any(
        "The tool says" in text for text in steps
    )


class Areal:
    """What the adapter uses of AReaL's `ArealOpenAI` (areal/experimental/openai/client.py)."""

    def __init__(self, *interactions: tuple[list[Any], list[Any]]) -> None:
        self.interactions = {
            f"chatcmpl-{number}": SimpleNamespace(
                messages=messages, output_message_list=reply, reward=None
            )
            for number, (messages, reply) in enumerate(interactions)
        }

    def export_interactions(self, style: str) -> dict[str, Any]:
        assert style == "individual"
        return self.interactions

    def set_reward(self, id: str, reward: float) -> None:
        self.interactions[id].reward = reward

    @property
    def rewards(self) -> list[Any]:
        return [each.reward for each in self.interactions.values()]


def test_areal_s_interactions_have_the_rewards_of_their_turns(
    default: None, judge: ScriptedEngine
) -> None:
    client = Areal(([USER], [WRONG]), (CHAT[:3], [DONE]))
    scored = asyncio.run(areal.credit(client, reference="42"))
    assert client.rewards == [1.0, 2.0] and scored.outcome == 1.0
    assert sees_the_tool(judge) and scored.steps == 2
    with pytest.raises(ValueError, match="no complete interactions"):
        asyncio.run(areal.credit(Areal(), reference="42"))


def test_areal_s_items_of_the_responses_api(default: None, judge: ScriptedEngine) -> None:
    call = {"type": "function_call", "name": "calc", "arguments": '"WRONG"', "call_id": "1"}
    parts = [{"type": "output_text", "text": "#### 42", "annotations": []}]
    done = {"type": "message", "role": "assistant", "content": parts, "id": "m"}
    told = {"role": "tool", "content": "The tool says 41.", "tool_call_id": "1"}
    client = Areal(([USER], [call]), ([USER, call, told], [done]))
    asyncio.run(areal.credit(client, reference="42"))
    assert client.rewards == [1.0, 2.0] and sees_the_tool(judge)


def test_areal_s_agents_return_rewards_by_completion(default: None, judge: ScriptedEngine) -> None:
    found = asyncio.run(areal.rewards_by_id(CHAT, ["a", "b"], outcome=1.0))
    assert found == {"a": 1.0, "b": 2.0} and sees_the_tool(judge)
    with pytest.raises(RuntimeError, match="no credit"):
        asyncio.run(
            areal.rewards_by_id([USER, DONE | {"content": "x" * 500_000}], ["a"], outcome=1)
        )


def ids_of(text: str) -> list[int]:
    found: list[int] = GPT2.encode(text).ids
    return found


def rllm_trajectory(*texts: str, messages: Any = None) -> SimpleNamespace:
    """Steps as rLLM documents them (rllm/agents/agent.py): each context extends the one before."""
    chat, context, steps = [dict(USER)], ids_of("What is 6 * 7?"), []
    for text in texts:
        reply = ids_of(text)
        chat = [*chat, {"role": "assistant", "content": text, "reasoning": ""}]
        step = SimpleNamespace(prompt_ids=list(context), response_ids=reply, info={})
        step.chat_completions, step.reward, step.advantage = list(chat), 0.0, None
        steps.append(step)
        context += reply + ids_of("The tool says 41.")
        chat = [*chat, dict(TOLD)]
    return SimpleNamespace(steps=steps, reward=None, name="agent", task=None, info={})


def test_rllm_s_steps_have_rewards_and_their_tokens_advantages(
    default: None, judge: ScriptedEngine
) -> None:
    bad, good = rllm_trajectory("WRONG: a", "#### 42"), rllm_trajectory("I see.", "#### 42")
    for each in (bad, good):
        asyncio.run(rllm.credit(each, reference="42"))
    assert sees_the_tool(judge)
    assert [step.reward for step in bad.steps] == [1.0, 2.0] and good.reward == 2.0
    assert 1.0 < bad.reward < 2.0
    group = SimpleNamespace(trajectories=[bad, good], group_id="task:agent")
    hook = rllm.with_advantages(lambda episodes, config, compact=None: [group])
    assert hook([], None, compact=None) == [group]
    steps = bad.steps + good.steps
    assert [len(step.advantage) for step in steps] == [len(step.response_ids) for step in steps]
    assert bad.steps[0].advantage[0] < 0 < bad.steps[1].advantage[0]
    every = torch.tensor([value for step in steps for value in step.advantage])
    assert every.mean().abs() < 1e-6 and every.std(correction=0) == pytest.approx(1.0)
    rllm.assign_advantages(group, level="turn")
    turns = torch.tensor([step.advantage[0] for step in steps])
    assert turns.mean().abs() < 1e-6


@with_options(tokenizer_name="gpt2", segment={"method": "turn_blank_line"})
def test_rllm_s_tokens_have_the_rewards_of_their_steps(
    default: None, judge: ScriptedEngine
) -> None:
    text = "I see.\n\nWRONG: a"
    trajectory = rllm_trajectory(text, "#### 42")
    scored = asyncio.run(rllm.credit(trajectory, reference="42"))
    assert scored.steps == 3 and sees_the_tool(judge)
    first, last = (step.info["capo_token_rewards"] for step in trajectory.steps)
    wrong = len(ids_of("WRONG: a"))
    assert len(first) == len(ids_of(text)) and first[0] == 2.0 and first[-wrong:] == [1.0] * wrong
    assert last == [2.0] * len(ids_of("#### 42"))
    assert trajectory.steps[0].reward == pytest.approx(sum(first) / len(first))


def test_rllm_sends_ids_with_a_tokenizer_given_here(
    default: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CAPO_OPTIONS", '{"segment": {"method": "turn_blank_line"}}')
    trajectory = rllm_trajectory("I see.\n\nWRONG: a", "#### 42")
    asyncio.run(rllm.credit(trajectory, reference="42", tokenizer=GPT2))
    assert set(trajectory.steps[0].info["capo_token_rewards"]) == {1.0, 2.0}
    images = rllm_trajectory("I see.\n\nWRONG: a", "#### 42")
    images.steps[0].prompt_ids.append({"image": 1})
    asyncio.run(rllm.credit(images, reference="42"))
    assert len(set(images.steps[0].info["capo_token_rewards"])) == 1


def test_what_rllm_s_trajectories_may_lack(default: None) -> None:
    with pytest.raises(ValueError, match="has no steps"):
        asyncio.run(rllm.credit(rllm_trajectory(), outcome=1.0))
    broken = rllm_trajectory("a")
    broken.steps[0].chat_completions.pop()
    with pytest.raises(ValueError, match="do not end with the policy's reply"):
        asyncio.run(rllm.credit(broken, outcome=1.0))
    with pytest.raises(RuntimeError, match=r"no credit: .*neither a reference"):
        asyncio.run(rllm.credit(rllm_trajectory("a")))
    bare, scored = rllm_trajectory("a"), rllm_trajectory("a")
    rllm.assign_advantages(SimpleNamespace(trajectories=[bare], group_id="g"))
    assert bare.steps[0].advantage is None
    asyncio.run(rllm.credit(scored, outcome=1.0))
    with pytest.raises(ValueError, match="1 of 2 steps of group g have no token rewards"):
        rllm.assign_advantages(SimpleNamespace(trajectories=[bare, scored], group_id="g"))


def slime_sample(*turns: tuple[str, int], group: int | None = 0, **given: Any) -> Any:
    """slime's Sample (slime/utils/types.py)."""
    ids = [ids_of(text) for text, _ in turns]
    mask = [own for own_ids, (_, own) in zip(ids, turns, strict=True) for _ in own_ids]
    flat = [each for own_ids in ids for each in own_ids]
    fields = {
        "prompt": [USER],
        "response": "".join(text for text, _ in turns),
        "label": "42",
        "tokens": [1, 2, *flat],
        "response_length": len(flat),
        "loss_mask": mask,
        "reward": None,
        "metadata": {},
        "group_index": group,
        "index": 0,
        "remove_sample": False,
    }
    sample = SimpleNamespace(**fields | given)
    sample.get_reward_value = lambda args: sample.reward
    return sample


ARGS = SimpleNamespace(hf_checkpoint="folder", custom_advantage_function_path="named")


@pytest.fixture
def slime_samples(default: None, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """As slime's rollout manager has them: scored, and flat."""
    monkeypatch.setattr(slime, "_tokenizer", {"folder": GPT2}.__getitem__)
    samples = [
        slime_sample(("WRONG: a", 1), ("The tool says 41.", 0), ("#### 42", 1)),
        slime_sample(("I see.", 1), ("The tool says 41.", 0), ("#### 42", 1)),
        slime_sample(("#### 42", 1), group=1, loss_mask=None),
        slime_sample(("WRONG: a #### 42", 1), group=1, remove_sample=True),
    ]
    for sample in samples:
        sample.reward = asyncio.run(slime.reward(ARGS, sample))
    return samples


def trained(samples: list[Any], rewards: list[Any], **more: Any) -> dict[str, Any]:
    """What slime's training process has, when it calls the advantage function."""
    kl = [torch.zeros(sample.response_length) for sample in samples]
    lengths = [sample.response_length for sample in samples]
    return {"rewards": rewards, "kl": kl, "response_lengths": lengths, **more}


def test_slime_s_hooks_give_each_token_its_advantage(
    slime_samples: list[Any], judge: ScriptedEngine
) -> None:
    assert all(sample.metadata["capo_token_rewards"] is not None for sample in slime_samples)
    raw, rewards = slime.post_process_rewards(ARGS, slime_samples)
    assert raw == [sample.reward for sample in slime_samples] and len(rewards) == 4
    data = trained(slime_samples, rewards)
    slime.advantages(ARGS, data)
    first, second, third, removed = data["advantages"]
    mask = torch.tensor(slime_samples[0].loss_mask).bool()
    assert [len(each) for each in data["advantages"]] == data["response_lengths"]
    assert first[0] < 0 < first[-1] == second[-1] and not first[~mask].any()
    own = torch.cat([first[mask], second[torch.tensor(slime_samples[1].loss_mask).bool()]])
    assert own.mean().abs() < 1e-6 and own.std(correction=0) == pytest.approx(1.0)
    assert not third.any() and not removed.any()  # one is removed, and the other is alone
    assert all(a is b for a, b in zip(data["advantages"], data["returns"], strict=True))
    _, by_turn = slime.post_process_rewards_by_turn(ARGS, [slime_samples[:2], slime_samples[2:]])
    turns = torch.stack([by_turn[0][0], by_turn[0][-1], by_turn[1][0], by_turn[1][-1]])
    assert turns.mean().abs() < 1e-6 and len(by_turn) == 4
    plain = SimpleNamespace(**vars(ARGS), grpo_std_normalization=False)
    _, centred = slime.post_process_rewards(plain, slime_samples[:2])
    assert centred[0][-1] - centred[0][0] == pytest.approx(1.0)


def test_slime_s_pass_keeps_the_outcome_apart(slime_samples: list[Any]) -> None:
    first, second = slime_samples[:2]
    assert first.metadata["capo_outcome_reward"] == second.metadata["capo_outcome_reward"] == 2.0
    nothing = [0.0] * second.response_length
    second.metadata |= {"capo_outcome_reward": 0.0, "capo_token_rewards": nothing}
    _, found = slime.post_process_rewards_by_pass(ARGS, [[first, second]])
    # Process rewards of chunks are -1 and 0, and 0; outcomes are 1 and -1 once normalised.
    low, high = 1 - 2**0.5, 1 + 0.5**0.5
    own = torch.tensor(first.loss_mask).bool()
    assert found[0][0] == pytest.approx((low + high) / 2**0.7) and not found[0][~own].any()
    assert found[0][-1] == pytest.approx(high)
    assert found[1][0] == found[1][-1] == pytest.approx(0.5**0.5 - 1)


def test_slime_s_tools_are_shown(default: None, judge: ScriptedEngine) -> None:
    scoring.default_scorer().tokenizer = GPT2
    tools = [{"type": "function", "function": {"name": "calc"}}]
    sample = slime_sample(("a", 1), ("b", 0), ("#### 42", 1), metadata={"tools": tools})
    asyncio.run(slime.reward(ARGS, sample))
    assert all('"name": "calc"' in prompt for prompt in judge.prompts) and judge.prompts


def test_slime_s_ranks_have_their_part_of_a_sample(
    slime_samples: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """slime/backends/megatron_utils/cp_utils.py cuts what the ranks of context parallelism have."""
    import sys

    def first_half(values: Any, total: int, length: int, form: str, longest: Any) -> Any:
        assert (total, length, form, longest) == (len(values) + 2, len(values), "thd", None)
        return values[: length // 2]

    cut = SimpleNamespace(slice_log_prob_with_cp=first_half)
    for name in ("slime", "slime.backends", "slime.backends.megatron_utils"):
        monkeypatch.setitem(sys.modules, name, SimpleNamespace())
    monkeypatch.setitem(sys.modules, "slime.backends.megatron_utils.cp_utils", cut)
    _, rewards = slime.post_process_rewards(ARGS, slime_samples)
    data = trained(slime_samples, rewards)
    data["total_lengths"] = [length + 2 for length in data["response_lengths"]]
    data["kl"] = [each[: len(each) // 2] for each in data["kl"]]
    slime.advantages(ARGS, data)
    for part, whole in zip(data["advantages"], rewards, strict=True):
        assert torch.equal(part, whole[: len(whole) // 2])


def test_slime_s_hooks_say_which_one_is_missing(slime_samples: list[Any]) -> None:
    with pytest.raises(ValueError, match="custom-reward-post-process-path"):
        slime.advantages(ARGS, trained(slime_samples, [1.0] * 4))
    slime_samples[1].metadata = {}
    with pytest.raises(ValueError, match=r"0 token rewards for .* tokens: .*--custom-rm-path"):
        slime.post_process_rewards(ARGS, slime_samples)
    empty = slime_sample(("", 1), loss_mask=None, reward=0.0)
    assert [len(each) for each in slime.post_process_rewards(ARGS, [empty])[1]] == [0]


def test_nemo_gym_s_items_have_the_rewards_of_their_turns(
    default: None, judge: ScriptedEngine
) -> None:
    """Output items as NeMo Gym 0.7's models have them (nemo_gym/openai_utils.py)."""
    text = {"type": "output_text", "text": "#### 42", "annotations": []}
    output = [
        {"type": "reasoning", "id": "r", "summary": [{"type": "summary_text", "text": "WRONG"}]},
        {"type": "function_call", "name": "calc", "arguments": "{}", "call_id": "1", "id": "f"},
        {"type": "function_call_output", "call_id": "1", "output": "The tool says 41."},
        {"type": "message", "id": "e", "role": "assistant", "status": "completed", "content": []},
        {
            "type": "message",
            "id": "m",
            "role": "assistant",
            "status": "completed",
            "content": [text],
        },
    ]
    body = {
        "responses_create_params": {
            "input": [USER],
            "tools": [{"type": "function", "name": "calc"}],
        },
        "response": {"output": output},
        "expected_answer": "42",
    }
    found = asyncio.run(nemo_gym.verify(body))
    assert found["capo_item_rewards"] == [1.0, 1.0, None, None, 2.0]
    assert 1.0 < found["reward"] < 2.0 and found["capo_steps"] == 2 and sees_the_tool(judge)


def trace_of(*rewards: list[float], trainable: bool = True, credited: bool = True) -> Any:
    """A trace of verifiers v1 (verifiers/v1/trace.py): each reply has a token of the template."""
    nodes = [SimpleNamespace(mask=[False], advantages=None)]
    nodes += [SimpleNamespace(mask=[False] + [True] * len(own), advantages=None) for own in rewards]
    branch = SimpleNamespace(nodes=nodes, trainable=True)
    info = {traces.INFO: [[], *rewards]} if credited else {}
    agent = SimpleNamespace(trainable=trainable)
    return SimpleNamespace(id="t", nodes=nodes, branches=[branch], info=info, agent=agent)


def test_verifiers_nodes_have_advantages() -> None:
    bad, good = trace_of([1.0], [2.0, 2.0, 2.0]), trace_of([2.0], [2.0])
    other, failed = trace_of([5.0], trainable=False), trace_of([5.0], credited=False)
    traces.assign_advantages([bad, good, other, failed])
    own = [node.advantages for trace in (bad, good) for node in trace.nodes]
    assert [len(each or ()) for each in own] == [0, 1, 3, 0, 1, 1]
    every = torch.tensor([value for each in own for value in each or ()])
    assert every.mean().abs() < 1e-6 and every.std(correction=0) == pytest.approx(1.0)
    assert own[1][0] < 0 < own[2][0]
    assert all(node.advantages is None for trace in (other, failed) for node in trace.nodes)
    traces.assign_advantages([bad, good], level="turn")
    turns = torch.tensor([node.advantages[0] for t in (bad, good) for node in t.nodes[1:]])
    assert turns.mean().abs() < 1e-6 and turns.std(correction=0) == pytest.approx(1.0)


def test_verifiers_nodes_that_do_not_train_are_left_out() -> None:
    trace = trace_of([1.0], [3.0])
    trace.branches[0].nodes = trace.nodes[:2]
    trace.branches.append(SimpleNamespace(nodes=trace.nodes, trainable=False))
    other = trace_of([2.0])
    traces.assign_advantages([trace, other], scale="none")
    assert [node.advantages for node in trace.nodes] == [None, [-0.5], None]
    other.info[traces.INFO][1] = [2.0, 2.0]
    with pytest.raises(ValueError, match="node 1 of trace t has 2 token rewards for 1 sampled"):
        traces.assign_advantages([trace, other])
