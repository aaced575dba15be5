"""OpenRLHF and AReaL by their installed code; slime and NeMo Gym by what they document."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from kit_adapters import MODEL, NOWHERE, QUESTIONS, URL, cable
from transformers import AutoTokenizer

from capo_client import UnavailableError
from capo_client.adapters import areal, nemo_gym, scoring, slime

QUESTION, ANSWER = QUESTIONS[0]
GOOD = "3 * 4 = 12.\n\nLess 2 is 10.\n\n#### 10"
OPTIONS: dict[str, Any] = {"voting": {"n": 3}, "deadline": 60}


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(MODEL)


@pytest.fixture(autouse=True)
def options(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CAPO_OPTIONS", json.dumps(OPTIONS))
    scoring._scorer_of.cache_clear()


class Policy:
    """In the place of OpenRLHF's vLLM engine: gives back an answer's ids."""

    def __init__(self, tokenizer: Any, text: str) -> None:
        ids = [*tokenizer.encode(text), tokenizer.eos_token_id]
        self._output = SimpleNamespace(token_ids=ids, finish_reason="stop", logprobs=None)

    async def generate(self, *_: Any, **__: Any) -> Any:
        return SimpleNamespace(outputs=[self._output])


def openrlhf_run(
    tokenizer: Any, remote: str, text: str = GOOD, label: Any = ANSWER
) -> dict[str, Any]:
    from openrlhf.utils.agent import SingleTurnAgentExecutor

    executor = SingleTurnAgentExecutor(remote)
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": QUESTION}], tokenize=False, add_generation_prompt=True
    )
    sampling = SimpleNamespace(max_tokens=64, logprobs=None)
    return asyncio.run(
        executor.execute(prompt, label, sampling, 1024, tokenizer, Policy(tokenizer, text))
    )


def test_openrlhf_s_executor_takes_the_reward_of_the_file(tokenizer: Any) -> None:
    file = Path(__file__).parents[2] / "recipes" / "openrlhf" / "reward_func.py"
    output = openrlhf_run(tokenizer, str(file))
    # As openrlhf's samples generator makes tensors of it.
    reward = torch.tensor([output["reward"]])
    assert reward.shape == (1,) and 1.0 <= reward.item() <= 2.0
    assert torch.tensor([output["scores"]]).item() == 1.0
    assert set(output["extra_logs"]) >= {"capo_wrong_step_rate", "capo_fallback"}
    assert all(value.numel() == 1 for value in output["extra_logs"].values())
    wrong = openrlhf_run(tokenizer, str(file), text="It is 3.\n\n#### 3")
    assert -1.0 <= torch.tensor([wrong["reward"]]).item() <= 0.0


def test_openrlhf_s_http_client_takes_the_service_s_route(tokenizer: Any) -> None:
    output = openrlhf_run(tokenizer, f"{URL}/openrlhf?n=3")
    reward = torch.tensor([output["reward"]])
    assert 1.0 <= reward.item() <= 2.0 and output["scores"] == [1.0]
    assert output["extra_logs"]["capo_fallback"] == [0.0]


def test_openrlhf_without_credit_has_no_reward(tokenizer: Any, tmp_path: Path) -> None:
    """OpenRLHF logs what the function raised, and leaves the rollout without a reward."""
    file = tmp_path / "reward_func.py"
    with cable() as way:
        file.write_text(
            "from capo_client.adapters.openrlhf import make_reward_func\n"
            f"reward_func = make_reward_func({way.url!r}, deadline=2)\n"
        )
        from openrlhf.utils.agent import SingleTurnAgentExecutor

        made = SingleTurnAgentExecutor(str(file))
        way.cut()
    sampling = SimpleNamespace(max_tokens=64, logprobs=None)
    output = asyncio.run(
        made.execute(QUESTION, ANSWER, sampling, 1024, tokenizer, Policy(tokenizer, GOOD))
    )
    assert output["reward"] is None


def test_a_service_that_is_down_at_the_start_is_named() -> None:
    from capo_client.adapters.openrlhf import make_reward_func

    with pytest.raises(UnavailableError, match=NOWHERE):
        make_reward_func(NOWHERE)


async def test_slime_s_custom_reward_function(tokenizer: Any) -> None:
    """slime is not on the package index: its Sample has these fields (slime/utils/types.py)."""
    ids = tokenizer.encode(GOOD)
    sample = SimpleNamespace(
        prompt=QUESTION, response=GOOD, label=ANSWER, tokens=[1, 2, 3, *ids],
        response_length=len(ids), metadata={}, loss_mask=None,
    )  # fmt: skip
    reward = await slime.reward(SimpleNamespace(), sample)
    assert 1.0 <= reward <= 2.0
    assert sample.metadata["capo_fallback"] == 0 and sample.metadata["capo_token_rewards"] is None
    # In one request the two are judged once; a request before may not be in the cache yet.
    one, other = await slime.reward(SimpleNamespace(), [sample, sample])
    assert one == other and 1.0 <= one <= 2.0


async def test_slime_s_tokens_where_the_service_has_the_tokenizer(
    tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    named = OPTIONS | {"tokenizer_name": "SmolLM2-135M-Instruct"}
    monkeypatch.setenv("CAPO_OPTIONS", json.dumps(named))
    ids = tokenizer.encode(GOOD)
    sample = SimpleNamespace(
        prompt=[{"role": "user", "content": QUESTION}], response=GOOD, label=ANSWER,
        tokens=[1, 2, 3, *ids], response_length=len(ids), metadata={}, loss_mask=None,
    )  # fmt: skip
    reward = await slime.reward(SimpleNamespace(), sample)
    rewards = sample.metadata["capo_token_rewards"]
    assert len(rewards) == len(ids) and reward == pytest.approx(sum(rewards) / len(ids))


async def test_areal_s_wrapper_runs_the_reward_in_its_worker_processes(tokenizer: Any) -> None:
    from areal.api.reward_api import AsyncRewardWrapper

    wrapper = AsyncRewardWrapper(areal.reward_fn, timeout_seconds=120, max_workers=1)
    ids = tokenizer.encode(GOOD)
    reward = await wrapper(QUESTION, GOOD + "<|im_end|>", [1, 2], ids, answer=ANSWER, url="ignored")
    assert 1.0 <= reward <= 2.0


async def test_areal_s_interactions_have_the_rewards_of_their_turns(tokenizer: Any) -> None:
    """AReaL's own client and cache, with scripted answers in place of its inference engine's."""
    from areal.api import ModelResponse
    from areal.experimental.openai.client import ArealOpenAI

    replies = iter(["I am not sure.", GOOD])

    class Inference:
        async def agenerate(self, asked: Any) -> Any:
            ids = [*tokenizer.encode(next(replies)), tokenizer.eos_token_id]
            return ModelResponse(
                input_tokens=list(asked.input_ids),
                output_tokens=ids,
                output_logprobs=[0.0] * len(ids),
                output_versions=[0] * len(ids),
                tokenizer=tokenizer,
            )

    client = ArealOpenAI(engine=Inference(), tokenizer=tokenizer, api_key="none", base_url=NOWHERE)
    messages = [{"role": "user", "content": QUESTION}]
    ids = []
    for _ in range(2):
        answer = await client.chat.completions.create(messages=messages, max_completion_tokens=64)
        ids.append(answer.id)
        messages.append(answer.choices[0].message.model_dump(exclude_none=True))
        messages.append({"role": "user", "content": "Go on."})
    sent: list[Any] = []
    score = scoring.Scorer.score

    async def recorded(self: Any, samples: Any) -> Any:
        sent.extend(samples)
        return await score(self, samples)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scoring.Scorer, "score", recorded)
        scored = await areal.credit(client, reference=ANSWER)
        by_id = await areal.rewards_by_id(messages[:-1], ids, reference=ANSWER)
    assert scored.outcome == 1.0 and scored.steps == 2
    assert [turn["role"] for turn in sent[0].turns] == ["assistant", "user", "assistant"]
    assert sent[0].turns == sent[1].turns and list(by_id) == ids
    client.apply_reward_discount(0.0)  # `turn_discount`, as areal's workflow applies it
    found = client.export_interactions(style="individual")
    for name, interaction in found.items():
        assert 1.0 <= by_id[name] <= 2.0
        [reward] = interaction.to_tensor_dict()["rewards"].tolist()
        assert reward == interaction.reward and 1.0 <= reward <= 2.0


async def test_nemo_gym_s_verify(tokenizer: Any) -> None:
    """NeMo Gym is not on the package index: request and response as its documentation has them."""
    body = {
        "responses_create_params": {"input": [{"role": "user", "content": QUESTION}]},
        "response": {
            "id": "resp_1", "created_at": 0.0, "model": "policy", "object": "response",
            "output": [
                {"type": "reasoning", "id": "r", "summary": []},
                {
                    "type": "message", "id": "m", "role": "assistant", "status": "completed",
                    "content": [{"type": "output_text", "text": GOOD, "annotations": []}],
                },
            ],
            "parallel_tool_calls": True, "tool_choice": "auto", "tools": [],
        },
        "expected_answer": ANSWER,
    }  # fmt: skip
    answer = await nemo_gym.verify(body)
    assert 1.0 <= answer["reward"] <= 2.0
    assert answer["capo_item_rewards"] == [pytest.approx(answer["reward"])] * 2
    assert answer["response"] == body["response"] and answer["capo_fallback"] == 0
    with pytest.raises(ImportError, match="nemo-gym"):
        nemo_gym.CapoResourcesServer  # noqa: B018


@pytest.mark.parametrize("module", ["trl", "verl", "verifiers", "swift"])
def test_a_framework_that_is_missing_is_named(module: str) -> None:
    import importlib

    sys.modules.pop(f"capo_client.adapters.{module}", None)
    with pytest.raises(ImportError, match="or newer for this adapter, which is not installed"):
        importlib.import_module(f"capo_client.adapters.{module}")
