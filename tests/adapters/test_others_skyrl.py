"""SkyRL's own generator, environments and trainer methods; its inference engine is scripted."""

from __future__ import annotations

import typing
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import typing_extensions
from kit_adapters import MODEL, QUESTIONS, URL
from transformers import AutoTokenizer

from capo_client.adapters.scoring import Scored

# SkyRL 0.3 gives pydantic a TypedDict of `typing`, which pydantic takes from Python 3.12 on.
typing.TypedDict = typing_extensions.TypedDict

QUESTION, ANSWER = QUESTIONS[0]
GOOD = "3 * 4 = 12.\n\nLess 2 is 10.\n\n#### 10"
BAD = "It is 3.\n\n#### 3"
UNSURE = "I am not sure."
PROMPT = [{"role": "user", "content": QUESTION}]
OPTIONS: dict[str, Any] = {"url": URL, "voting": {"n": 3}, "deadline": 60}


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(MODEL)


class Inference:
    """What the generator asks of an inference engine, which needs a GPU: turns by session."""

    def __init__(self, tokenizer: Any, texts: dict[str, list[str]]) -> None:
        self._tokenizer, self._texts = tokenizer, {name: iter(t) for name, t in texts.items()}

    async def generate(self, asked: Any, model: Any = None) -> dict[str, Any]:
        text = next(self._texts[asked["session_ids"][0]])
        ids = [*self._tokenizer.encode(text), self._tokenizer.eos_token_id]
        return {
            "responses": [text],
            "response_ids": [ids],
            "stop_reasons": ["stop"],
            "response_logprobs": [[-1.0] * len(ids)],
        }

    async def finish_session(self, _: Any) -> None:
        pass


def generator(tokenizer: Any, texts: dict[str, list[str]], **options: Any) -> Any:
    from skyrl.train.config import GeneratorConfig, SkyRLGymConfig

    from capo_client.adapters.skyrl import CapoGenerator

    return CapoGenerator(
        generator_cfg=GeneratorConfig(
            use_cache_salt=False, max_turns=3, max_input_length=2048, **options
        ),
        skyrl_gym_cfg=SkyRLGymConfig(),
        inference_engine_client=Inference(tokenizer, texts),
        tokenizer=tokenizer,
        capo=OPTIONS,
    )


def record(made: Any, rewards: Any = None) -> list[Any]:
    """The samples that the generator sends; `rewards` takes the service's place, if given."""
    sent: list[Any] = []
    score = made.scorer.score

    async def recorded(samples: Any) -> Any:
        sent.extend(samples)
        return await score(samples) if rewards is None else [rewards(s) for s in samples]

    made.scorer.score = recorded
    return sent


def numbered(sample: Any) -> Scored:
    return Scored([n + 1.0 if own else 0.0 for n, own in enumerate(sample.mask)], 1.0, outcome=1.0)


async def run(made: Any, session: int = 0, env: str = "gsm8k_multi_turn") -> Any:
    return await made.agent_loop(
        PROMPT,
        env,
        {"reward_spec": {"ground_truth": ANSWER}, "max_turns": 3},
        64,
        2048,
        trajectory_id=SimpleNamespace(instance_id="q", repetition_id=session),
    )


async def test_the_generator_gives_token_rewards(tokenizer: Any) -> None:
    made = generator(tokenizer, {"q_0": [GOOD], "q_1": [BAD]})
    outputs = [await run(made, session, "gsm8k") for session in range(2)]
    for output, worth in zip(outputs, (2.0, 0.0), strict=True):
        assert len(output.reward) == len(output.response_ids) == len(output.loss_mask)
        assert set(output.reward) <= {worth, worth - 1}
        assert output.env_metrics["capo_fallback"] == 0


async def test_what_the_environment_wrote_is_an_observation(tokenizer: Any) -> None:
    made = generator(tokenizer, {"q_0": [UNSURE, GOOD]})
    sent = record(made)
    output = await run(made)
    mask = output.loss_mask
    assert 0 in mask and len(output.reward) == len(mask) == len(output.response_ids)
    assert all(value == 0.0 for value, own in zip(output.reward, mask, strict=True) if not own)
    assert [list(sample.mask) for sample in sent] == [mask]
    assert output.env_metrics["capo_steps"] == 2 and sent[0].outcome == 1.0


@pytest.mark.parametrize("with_thoughts", [False, True])
async def test_each_step_s_tokens_get_the_rewards_of_its_turn(
    tokenizer: Any, with_thoughts: bool
) -> None:
    """With thoughts, the chat template leaves out earlier ones, so contexts do not go on."""
    thought = "<think>Hm, three.</think>" if with_thoughts else ""
    texts = {"q_0": [f"{thought}{UNSURE}", f"{thought}{GOOD}"]}
    if with_thoughts:
        tokenizer = AutoTokenizer.from_pretrained(MODEL)
        tokenizer.chat_template = (
            "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content.split('</think>')[-1] }}"
            "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
        )
    made = generator(tokenizer, texts, step_wise_trajectories=True)
    sent = record(made, numbered)
    steps = (await run(made)).step_outputs
    [sample] = sent
    assert len(steps) == 2 and sample.outcome == 1.0
    start = 0
    for step in steps:
        size = len(step.response_ids)
        where = slice(start, start + size)
        assert list(sample.ids)[where] == step.response_ids
        assert list(sample.mask)[where] == step.loss_mask and 1 in step.loss_mask
        expected = [start + n + 1.0 if own else 0.0 for n, own in enumerate(step.loss_mask)]
        assert step.reward == expected
        start += size
    assert len(sample.ids) == start  # SkyRL's steps already have what the environment wrote
    text = tokenizer.decode(sample.ids)
    assert text.count(UNSURE) == 1 and text.count("Hm, three.") == 2 * with_thoughts
    whole = generator(tokenizer, texts)
    record(whole, numbered)
    output = await run(whole)
    own = [r for r, flag in zip(output.reward, output.loss_mask, strict=True) if flag]
    assert own == [r for s in steps for r, flag in zip(s.reward, s.loss_mask, strict=True) if flag]


async def test_steps_without_credit_are_masked(tokenizer: Any) -> None:
    made = generator(tokenizer, {"q_0": [UNSURE, GOOD]}, step_wise_trajectories=True)
    record(made, lambda _: Scored(None, None, source="none"))
    steps = (await run(made)).step_outputs
    assert not any(flag for step in steps for flag in step.loss_mask)
    assert not any(value for step in steps for value in step.reward)
    assert steps[-1].env_metrics["capo_fallback"] == 1


def trainer(tokenizer: Any, estimator: str, with_mixin: bool = True, **options: Any) -> Any:
    """SkyRL's trainer without its workers: only its methods between rollouts and advantages."""
    from skyrl.train.config import SkyRLTrainConfig
    from skyrl.train.trainer import RayPPOTrainer

    from capo_client.adapters.skyrl import CapoTrainerMixin

    class Trainer(CapoTrainerMixin, RayPPOTrainer):
        pass

    made: Any = object.__new__(Trainer if with_mixin else RayPPOTrainer)
    made.cfg = SkyRLTrainConfig()
    made.cfg.trainer.algorithm.advantage_estimator = estimator
    made.cfg.generator.n_samples_per_prompt = 2
    made.cfg.trainer.train_batch_size = made.cfg.trainer.policy_mini_batch_size = 1
    for name, value in options.items():
        setattr(made.cfg.generator, name, value)
    made.tokenizer, made.all_metrics = tokenizer, {}
    made.dispatch = SimpleNamespace(get_lcm_dp_size=lambda: 8)
    return made


async def rolled_out(tokenizer: Any, step_wise: bool) -> Any:
    from skyrl.train.generators.base import TrajectoryID

    texts = {"q_0": [UNSURE, GOOD], "q_1": [BAD, UNSURE, BAD]}
    made = generator(tokenizer, texts, step_wise_trajectories=step_wise)
    record(made, numbered)
    extras = {"reward_spec": {"ground_truth": ANSWER}, "max_turns": 3}
    return await made.generate(
        {
            "prompts": [PROMPT] * 2,
            "env_classes": ["gsm8k_multi_turn"] * 2,
            "env_extras": [dict(extras), dict(extras)],
            "sampling_params": None,
            "trajectory_ids": [TrajectoryID("q", n) for n in range(2)],
            "batch_metadata": None,
        },
        disable_tqdm=True,
    )


@pytest.mark.parametrize("merged", [None, False, True])
@pytest.mark.parametrize(("estimator", "by_std"), [("capo", True), ("capo_turn", False)])
async def test_advantages_are_over_all_steps_of_a_question(
    tokenizer: Any, merged: bool | None, estimator: str, by_std: bool
) -> None:
    """From SkyRL's generator through its trainer's methods: whole, step-wise, and merged steps."""
    from skyrl.train.utils.trainer_utils import validate_generator_output

    step_wise = merged is not None
    output = await rolled_out(tokenizer, step_wise)
    validate_generator_output(2, output, step_wise=step_wise)
    made = trainer(
        tokenizer, estimator, step_wise_trajectories=step_wise, merge_stepwise_output=bool(merged)
    )
    made.cfg.trainer.algorithm.grpo_norm_by_std = by_std
    output, uids = made.postprocess_generator_output(output, ["q"] * len(output["response_ids"]))
    assert len(uids) == (5 if merged is False else 2)
    masks, rewards = output["loss_masks"], output["rewards"]
    own = [
        [value for value, flag in zip(row, mask, strict=True) if flag]
        for row, mask in zip(rewards, masks, strict=True)
    ]
    data = made.convert_to_training_input(output, uids)
    assert data.metadata["pad_size"] == 8 - len(uids)
    found = made.compute_advantages_and_returns(data)
    flat = torch.tensor([value for row in own for value in row], dtype=torch.double)
    if estimator == "capo":
        mean, spread = flat.mean(), flat.std(correction=0)
    else:
        turns = torch.tensor([value for row in _turns(rewards, masks) for value in row])
        mean, spread = turns.double().mean(), torch.tensor(1.0)
    for row, values in enumerate(own):
        mask = data["loss_mask"][row].bool()
        expected = ((torch.tensor(values).double() - mean) / spread).float()
        torch.testing.assert_close(found["advantages"][row][mask], expected)
        assert (found["advantages"][row][~mask] == 0).all()
        assert found["returns"][row][mask].tolist() == values
    assert (found["advantages"][len(uids) :] == 0).all()  # the padding
    assert abs(made.all_metrics["loss/avg_raw_advantages"]) < 1e-4 or estimator == "capo_turn"
    assert set(found.metadata["metrics"]) == {
        "avg_final_rewards",
        "avg_response_length",
        "avg_advantages",
        "avg_advantages_abs",
    }


def _turns(rewards: Any, masks: Any) -> list[list[float]]:
    """The mean reward of each turn of each row."""
    found = []
    for row, mask in zip(rewards, masks, strict=True):
        runs: list[list[float]] = [[]]
        for value, flag in zip(row, mask, strict=True):
            if flag:
                runs[-1].append(value)
            elif runs[-1]:
                runs.append([])
        found.append([sum(run) / len(run) for run in runs if run])
    return found


async def test_other_estimators_are_skyrl_s_own(tokenizer: Any) -> None:
    output = await rolled_out(tokenizer, False)
    found = []
    for with_mixin in (True, False):
        made = trainer(tokenizer, "grpo", with_mixin)
        data = made.convert_to_training_input(output, ["q"] * 2)
        data["values"] = None
        found.append(made.compute_advantages_and_returns(data)["advantages"])
    torch.testing.assert_close(found[0], found[1])
    assert found[0].abs().sum() > 0


async def test_the_estimators_are_registered_and_need_the_mixin(tokenizer: Any) -> None:
    from skyrl.backends.skyrl_train.utils.ppo_utils import (
        AdvantageEstimatorRegistry,
        repopulate_all_registries,
    )

    from capo_client.adapters.skyrl import register

    for _ in range(2):
        register()
    repopulate_all_registries()  # as validate_cfg does
    assert {"capo", "capo_turn", "grpo"} <= set(AdvantageEstimatorRegistry.list_available())
    made = trainer(tokenizer, "capo", with_mixin=False)
    data = made.convert_to_training_input(await rolled_out(tokenizer, False), ["q"] * 2)
    data["values"] = None
    with pytest.raises(RuntimeError, match=r"CapoTrainerMixin.*get_trainer"):
        made.compute_advantages_and_returns(data)
