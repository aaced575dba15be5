"""SkyRL with CAPO: a generator whose rollouts come with the reward of every token.

    from capo_client.adapters import skyrl

    class Trainer(skyrl.CapoTrainerMixin, RayPPOTrainer):
        pass

    class Experiment(BasePPOExp):
        def get_generator(self, cfg, tokenizer, inference_engine_client):
            return skyrl.CapoGenerator(cfg.generator, ..., tokenizer=tokenizer)

        def get_trainer(self, **arguments):
            return Trainer(**arguments)

Each trajectory is sent as soon as it ends, while others are sampled. The judge sees tokens whose
`loss_mask` is 0 (what the environment wrote) as observations, and they get 0.0. With
`generator.step_wise_trajectories=true` the steps of a trajectory are judged as one trajectory, and
each token of each step gets its own reward. The environment's own reward in [0, 1] (say, of
`gsm8k`) is the outcome r_v; CAPO's token rewards take its place.

`register()` adds the estimators `capo`, which is eq. 2, and `capo_turn`, whose statistics count
each turn once; call it before SkyRL's `validate_cfg`. They need the mixin: SkyRL's trainer passes
to estimators a mask that marks the environment's tokens too, and of step-wise trajectories only
the last step.
"""

from __future__ import annotations

from typing import Any

from capo_client.adapters.requirement import require
from capo_client.adapters.scoring import Sample, Scored, Scorer
from capo_client.adapters.sequences import TokenSequence, join

require("skyrl", "skyrl", "0.3")

from skyrl.train.generators.skyrl_gym_generator import SkyRLGymGenerator

from capo_client.adapters.advantages import AdvantageLevel, token_advantages

LEVELS: dict[str, AdvantageLevel] = {"capo": "token", "capo_turn": "turn"}


class CapoGenerator(SkyRLGymGenerator):
    """SkyRL's generator, with CAPO's token rewards.

    Args:
        capo: arguments of `Scorer` (url, voting, reward, fallback, ...).
        arguments: those of SkyRLGymGenerator.
    """

    def __init__(self, *arguments: Any, capo: dict[str, Any] | None = None, **named: Any) -> None:
        super().__init__(*arguments, **named)
        if self.generator_cfg.batched:
            raise ValueError(
                "CapoGenerator scores trajectories one by one: set generator.batched=false"
            )
        self.scorer = Scorer(tokenizer=self.tokenizer, **(capo or {}))

    async def agent_loop(self, prompt: Any, *arguments: Any, **named: Any) -> Any:
        """SkyRL's agent loop, with token rewards in place of the environment's reward."""
        question = [dict(turn) for turn in prompt]
        output = await super().agent_loop(prompt, *arguments, **named)
        parts = getattr(output, "step_outputs", [output])  # of step-wise trajectories
        joined = join(
            [TokenSequence(each.prompt_ids, each.response_ids, each.loss_mask) for each in parts]
        )
        outcome = sum(_total(each.reward) for each in parts)
        sample = Sample(
            question, ids=joined.ids, mask=joined.mask, outcome=min(max(outcome, 0.0), 1.0)
        )
        [scored] = await self.scorer.score([sample])
        if scored.token_rewards is None:  # no credit: masked
            rewards = [[0.0] * len(each.response_ids) for each in parts]
            for each in parts:
                each.loss_mask = [0] * len(each.loss_mask)
        else:
            rewards = joined.split(scored.token_rewards)
        for each, own in zip(parts, rewards, strict=True):
            each.reward = own
        _add_metrics(parts[-1], scored)
        return output


class CapoTrainerMixin:
    """For SkyRL's trainers (`RayPPOTrainer`, `FullyAsyncRayPPOTrainer`): token advantages.

    With `trainer.algorithm.advantage_estimator` set to `capo` or `capo_turn`, statistics are over
    the tokens that train (`loss_mask`) of all rollouts of a question, in all of their steps.
    `grpo_norm_by_std=false` leaves out the standard deviation. Other estimators are SkyRL's.
    """

    cfg: Any
    all_metrics: dict[str, Any]

    def compute_advantages_and_returns(self, data: Any) -> Any:
        """SkyRL's interface: adds `advantages` and `returns` of shape (B, T) to the batch."""
        algorithm = self.cfg.trainer.algorithm
        if algorithm.advantage_estimator not in LEVELS:
            parent: Any = super()
            return parent.compute_advantages_and_returns(data)
        mask, rewards = data["loss_mask"], data["rewards"]
        data["advantages"] = token_advantages(
            rewards,
            mask,
            list(data.metadata["uids"]),
            "group" if algorithm.grpo_norm_by_std else "none",
            LEVELS[algorithm.advantage_estimator],
        )
        data["returns"] = rewards * mask
        size = len(rewards) - data.metadata.get("pad_size", 0)
        sampled = data["advantages"][:size][mask[:size].bool()]
        found = {
            "avg_final_rewards": rewards[:size].sum(-1).mean().item(),
            "avg_advantages": sampled.mean().item() if sampled.numel() else 0.0,
            "avg_advantages_abs": sampled.abs().mean().item() if sampled.numel() else 0.0,
        }
        length = data.metadata["avg_response_length"]
        data.metadata.setdefault("metrics", {}).update(found, avg_response_length=length)
        self.all_metrics.update(
            {
                "loss/avg_final_rewards": found["avg_final_rewards"],
                "loss/avg_raw_advantages": found["avg_advantages"],
                "loss/avg_raw_advantages_abs": found["avg_advantages_abs"],
            }
        )
        return data.to("cpu")


def register() -> None:
    """Add the advantage estimators; may be called more than once."""
    from skyrl.backends.skyrl_train.utils.ppo_utils import AdvantageEstimatorRegistry

    for name in LEVELS:
        if name not in AdvantageEstimatorRegistry.list_available():
            AdvantageEstimatorRegistry.register(name, _without_mixin)


def _without_mixin(*_: Any, **__: Any) -> tuple[Any, Any]:
    raise RuntimeError(
        "advantage_estimator capo needs a trainer with CapoTrainerMixin: define `class "
        "Trainer(capo_client.adapters.skyrl.CapoTrainerMixin, RayPPOTrainer): pass` and return it "
        "from get_trainer of the experiment"
    )


def _total(reward: Any) -> float:
    return float(sum(reward) if isinstance(reward, list) else reward or 0.0)


def _add_metrics(part: Any, scored: Scored) -> None:
    part.env_metrics = dict(part.env_metrics or {}) | scored.metrics()
