"""verifiers' own Task and Trace, before the real service."""

from __future__ import annotations

import json
from typing import Any

import pytest
import verifiers.v1 as vf
from kit_adapters import MODEL, QUESTIONS
from transformers import AutoTokenizer
from verifiers.v1.graph import MessageNode
from verifiers.v1.trace import AgentInfo, Trace, TraceTask
from verifiers.v1.types import AssistantMessage, Tool, ToolCall, ToolMessage, UserMessage

from capo_client.adapters import scoring
from capo_client.adapters.verifiers import CapoJudge, CapoJudgeConfig

QUESTION, ANSWER = QUESTIONS[0]
GOOD = "3 * 4 = 12.\n\nLess 2 is 10.\n\n#### 10"


class Data(vf.TaskData):
    answer: str = ""


class Task(vf.Task[Data]):
    @vf.reward(weight=0.5)
    async def credit(self, trace: vf.Trace) -> float:
        return await CapoJudge().score(self.data, trace)


@pytest.fixture(autouse=True)
def options(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CAPO_OPTIONS", json.dumps({"voting": {"n": 3}, "deadline": 60}))
    scoring._scorer_of.cache_clear()


def trace(task: Task, text: str) -> Trace:
    made = TraceTask(type="Task", data=task.data)
    return Trace(task=made, agent=AgentInfo(config={}), root_reply=text)


async def test_a_task_s_scoring_takes_the_reward() -> None:
    task = Task(Data(prompt=QUESTION, answer=ANSWER))
    good, bad = trace(task, GOOD), trace(task, "It is 3.\n\n#### 3")
    for each in (good, bad):
        await task.score(each)
        assert each.info["capo"]["capo_fallback"] == 0
    assert 1.0 <= good.rewards["credit"].score <= 2.0 and good.rewards["credit"].weight == 0.5
    assert -1.0 <= bad.rewards["credit"].score <= 0.0


async def test_a_field_that_holds_the_reference_may_have_another_name() -> None:
    class Other(vf.TaskData):
        solution: str = ""

    data = Other(prompt=QUESTION, solution=ANSWER)
    judge = CapoJudge(CapoJudgeConfig(reference_field="solution"))
    assert judge.reward_name == "capo"
    made = Trace(
        task=TraceTask(type="Task", data=data), agent=AgentInfo(config={}), root_reply=GOOD
    )
    assert await judge.score(data, made) >= 1.0


async def test_no_credit_is_an_error_of_the_rollout() -> None:
    task = Task(Data(prompt=QUESTION, answer=ANSWER))
    long = trace(task, "It is so. " * 25_000)
    with pytest.raises(Exception, match="no credit"):
        await task.score(long)


CALL = ToolCall(id="1", name="calc", arguments='{"a": "3 * 4 - 2"}')
FIRST = "I compute it.\n\nThen I read the result."


def agent_trace(task: Task) -> Trace:
    """A question, a call, its result and an answer, as verifiers' client commits them."""
    encode = AutoTokenizer.from_pretrained(MODEL).encode
    said = [
        UserMessage(content=QUESTION),
        AssistantMessage(content=FIRST, tool_calls=[CALL]),
        ToolMessage(tool_call_id="1", content="10", name="calc"),
        AssistantMessage(content="#### 10"),
    ]
    made = trace(task, "")
    made.root_reply = None
    for number, message in enumerate(said):
        sampled = isinstance(message, AssistantMessage)
        head, ids = encode("\nassistant\n") if sampled else [], encode(message.content or "")
        node = MessageNode(
            parent=number - 1 if number else None, message=message, sampled=sampled,
            token_ids=head + ids, mask=[False] * len(head) + [sampled] * len(ids),
            tools=[] if number else [Tool(name="calc", description="Computes.")],
        )  # fmt: skip
        made.nodes.append(node)
    return made


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What the scorer sends, in the forms of the wire."""
    found: list[dict[str, Any]] = []
    score = scoring.Scorer.score

    async def recorded(self: scoring.Scorer, samples: Any) -> Any:
        found.extend(self.query_builder().build(0, each).body for each in samples)
        return await score(self, samples)

    monkeypatch.setattr(scoring.Scorer, "score", recorded)
    return found


async def test_a_trace_with_tools_is_judged_as_a_trajectory(sent: list[dict[str, Any]]) -> None:
    task = Task(Data(prompt=QUESTION, answer=ANSWER))
    made = agent_trace(task)
    await task.score(made)
    [body] = sent
    roles = [turn["role"] for turn in body["response_turns"]]
    assert roles == ["assistant", "tool", "assistant"]
    assert body["messages"][0]["content"] == QUESTION and body["tools"][0]["name"] == "calc"
    assert body["response_turns"][0]["tool_calls"][0]["function"]["name"] == "calc"
    assert made.info["capo"]["capo_steps"] == 2 and 1.0 <= made.rewards["credit"].score <= 2.0
    rewards = made.info["capo_token_rewards"]
    assert [len(each) for each in rewards] == [sum(node.mask) for node in made.nodes]
    assert all(len(set(each)) <= 1 for each in rewards)


async def test_tokens_have_their_own_rewards_by_the_tokenizer_s_name(
    monkeypatch: pytest.MonkeyPatch, sent: list[dict[str, Any]]
) -> None:
    options = {
        "voting": {"n": 3}, "deadline": 60, "tokenizer_name": "SmolLM2-135M-Instruct",
        "segment": {"method": "turn_blank_line"},
    }  # fmt: skip
    monkeypatch.setenv("CAPO_OPTIONS", json.dumps(options))
    scoring._scorer_of.cache_clear()
    task = Task(Data(prompt=QUESTION, answer=ANSWER))
    made = agent_trace(task)
    await task.score(made)
    [body] = sent
    branch = made.branches[0]
    start = branch.sampled_mask.index(True)
    assert body["response_token_ids"] == branch.token_ids[start:]
    assert body["response_mask"] == [int(own) for own in branch.sampled_mask[start:]]
    assert made.info["capo"]["capo_steps"] == 3
    # The layout that verifiers and prime-rl read: sampled tokens only, node by node.
    for node, rewards in zip(made.nodes, made.info["capo_token_rewards"], strict=True):
        assert len(rewards) == sum(node.mask)
        node.advantages = rewards or None
    aligned = branch.advantages
    assert len(aligned) == len(branch.token_ids)
    assert all(
        value == 0.0 for value, own in zip(aligned, branch.sampled_mask, strict=True) if not own
    )
    assert Trace.model_validate(made.model_dump()).info == made.info
