"""The trainer's multi-turn rollouts: exact tokens, masks, and the control with random steps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

import capo_wire as wire
import kit_trainer
from capo_trainer.batch import make_batch
from capo_trainer.reward_client import credit_of
from capo_trainer.sampling import TrajectorySampler, sample_all
from capo_trainer.train import train
from capo_trainer.types import Prompt, RolloutCredit, SampledRollout, SampleRequest
from kit import tokenizer
from kit_scripted import ScriptedEngine
from kit_service import Service, serving, settings
from kit_trainer import Seen, by_letters, changed, records

END = 0


class Scripted:
    """A sampler whose turns are given; it notes the prompts that it got."""

    def __init__(self, wrapped: Any, turns: Sequence[str]) -> None:
        self.wrapped, self.turns = wrapped, turns
        self.prompts: list[list[int]] = []
        self.keys: list[str] = []

    def update(self, save: object) -> None:
        """Nothing to do."""

    def sample(self, model: object, requests: Sequence[SampleRequest], *, greedy: bool = False):
        for position, request in reversed(list(enumerate(requests))):
            self.prompts.append(request.prompt_ids)
            self.keys.append(request.key)
            text = self.turns[int(request.key.rsplit(" ", 1)[1])]
            ids = self.wrapped.encode(text, add_special_tokens=False)
            finished = not text.endswith("...")
            if finished:
                ids = [*ids, END]
            yield position, SampledRollout(request, ids, text, finished)


def wrapped() -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer("gpt2"), eos_token="<|endoftext|>", pad_token="<|endoftext|>"
    )


def sampled(turns: Sequence[str], count: int = 1, most: int = 5) -> tuple[list, Scripted]:
    inner = Scripted(wrapped(), turns)
    sampler = TrajectorySampler(inner, inner.wrapped, Seen, most, 0)
    requests = [SampleRequest(Prompt(i, "q", "a"), [3, 4], f"rollout {i}") for i in range(count)]
    return sample_all(sampler, None, requests), inner


def test_tokens_of_a_trajectory_are_those_that_were_sampled_and_read() -> None:
    [rollout], inner = sampled(["look up a", "stop"])
    encode = inner.wrapped.encode
    first, read = [*encode("look up a"), END], encode("<|endoftext|>seen 1\n")
    last = [*encode("stop"), END]
    assert rollout.ids == [*first, *read, *last]
    assert rollout.mask == [1] * len(first) + [0] * len(read) + [1] * len(last)
    assert [(t.text, t.observation) for t in rollout.turns] == [
        ("look up a", "seen 1"),
        ("stop", ""),
    ]
    assert rollout.own_text == "look up a\n\nstop" and rollout.finished
    assert rollout.own_tokens == len(first) + len(last)
    # The second turn goes on from exactly the ids before it, with a random stream of its own.
    assert inner.prompts == [[3, 4], [3, 4, *first, *read]]
    assert inner.keys == ["rollout 0 turn 0", "rollout 0 turn 1"]


def test_trajectories_end_when_cut_off_and_after_the_most_turns() -> None:
    [cut], _ = sampled(["a", "b..."])
    assert not cut.finished and len(cut.turns) == 2 and cut.ids[-1] != END
    [long], _ = sampled(["a"] * 9, most=3)
    assert not long.finished and len(long.turns) == 3
    several, _ = sampled(["a", "stop"], count=3)
    assert [each.request.key for each in several] == [f"rollout {i}" for i in range(3)]


def test_only_the_policys_tokens_are_learnt_from() -> None:
    [rollout], _ = sampled(["look up a", "stop"])
    [other], _ = sampled(["stop"])
    values = kit_trainer.recipe_values(Path("p"), Path("q"), Path("o"), None)
    values["credit"] = {"tokenizer": "gpt2"}
    recipe = changed(values, sampling__rollouts_per_prompt=2)
    credits = {
        0: RolloutCredit([1.0] * len(rollout.ids), [True, False]),
        1: RolloutCredit([0.0] * len(other.ids), [False]),
    }
    batch = make_batch([rollout, other], [1.0, 1.0], credits, recipe, 0, "cpu")
    assert batch.mask[0].int().tolist() == rollout.mask
    assert batch.attention[0].sum() == 2 + len(rollout.ids)  # what was read is attended to
    advantage = batch.advantages("capo")
    assert (advantage[0][~batch.mask[0]] == 0).all() and (advantage[0][batch.mask[0]] != 0).all()


def step(index: int, tokens: tuple[int, int], reward: float) -> wire.Step:
    return wire.Step(
        index=index,
        span=tokens,
        token_span=tokens,
        wrong=reward < 0,
        penalty=-reward,
        votes=wire.Votes(wrong=1, valid=1, asked=1),
        reward=reward,
        turn=index,
    )


def test_credit_of_a_result_keeps_the_tokens_of_its_steps() -> None:
    spans = [(0, 2), (3, 4), (6, 9), (9, 10)]  # tokens between them were read
    steps = [step(i, span, -1.0 if i == 1 else 0.0) for i, span in enumerate(spans)]
    rewards = [0.0] * 10
    rewards[3] = -1.0
    result = wire.Credited(
        id="0", outcome=None, steps=steps, token_rewards=rewards, usage=wire.Usage()
    )
    credit = credit_of(result)
    assert credit == RolloutCredit([-r for r in rewards], [False, True, False, False], spans)


@pytest.fixture
def service(tmp_path: Path, fresh_accelerate: None) -> Iterator[Service]:
    with serving(ScriptedEngine(by_letters), settings(tmp_path)) as running:
        yield running


def test_a_run_with_an_environment_learns_from_turns(service: Service, tmp_path: Path) -> None:
    policy = kit_trainer.make_policy(tmp_path / "policy")
    prompts = kit_trainer.write_prompts(tmp_path / "prompts.jsonl")
    values = kit_trainer.recipe_values(policy, prompts, tmp_path / "run", service.url)
    del values["credit"]["segment"]
    recipe = changed(
        values,
        steps=2,
        data__environment="kit_trainer:Seen",
        data__verifier="kit_trainer:outcome",
        sampling__max_tokens=4,
        sampling__max_turns=3,
        evaluation__prompts=str(prompts),
        evaluation__limit=3,
        evaluation__checker="kit_trainer:all_wrong",
        logging__rollouts=2,
    )
    train(recipe)
    steps = records(recipe.output)
    assert [each["step"] for each in steps] == [1, 2]
    assert all(each["uncredited"] == 0 and each["grad_norm"] > 0 for each in steps)
    # gpt2's random policy hardly ever ends a turn, so that trajectories are cut off.
    assert all(each["truncated"] > 0 and each["mean_tokens"] <= 12 for each in steps)
    assert records(recipe.output, "evaluation")[-1]["greedy_wrong_step_rate"] == 1.0
