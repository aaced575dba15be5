"""verifiers' own Task and Trace, before the real service."""

from __future__ import annotations

import json

import pytest
import verifiers.v1 as vf
from kit_adapters import QUESTIONS
from verifiers.v1.trace import AgentInfo, Trace, TraceTask

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
