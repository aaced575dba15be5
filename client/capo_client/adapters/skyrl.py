"""SkyRL with CAPO: a generator whose rollouts come with the reward of every token.

    from capo_client.adapters.skyrl import CapoGenerator

    class Experiment(BasePPOExp):
        def get_generator(self, cfg, tokenizer, inference_engine_client):
            return CapoGenerator(cfg.generator, ..., tokenizer=tokenizer)

Each trajectory is sent as soon as it ends, while others are sampled. Tokens whose `loss_mask` is 0
(what the environment wrote) are not judged and get 0.0. The environment's own reward
in [0, 1] (say, of `gsm8k`) is the outcome r_v; CAPO's token rewards take its place. SkyRL's
estimators sum token rewards or read the last; `register()` adds `capo`, which is eq. 2
(`trainer.algorithm.advantage_estimator=capo`).
"""

from __future__ import annotations

from typing import Any

from capo_client.adapters.requirement import require
from capo_client.adapters.scoring import Sample, Scorer

require("skyrl", "skyrl", "0.3")

from skyrl.train.generators.skyrl_gym_generator import SkyRLGymGenerator

from capo_client.adapters.advantages import token_advantages


class CapoGenerator(SkyRLGymGenerator):
    """SkyRL's generator, with CAPO's token rewards.

    Args:
        capo: arguments of `Scorer` (url, voting, reward, fallback, ...).
        arguments: those of SkyRLGymGenerator.
    """

    def __init__(self, *arguments: Any, capo: dict[str, Any] | None = None, **named: Any) -> None:
        super().__init__(*arguments, **named)
        if self.generator_cfg.batched or self.generator_cfg.step_wise_trajectories:
            raise ValueError(
                "CapoGenerator scores whole trajectories one by one: set generator.batched=false "
                "and generator.step_wise_trajectories=false"
            )
        self.scorer = Scorer(tokenizer=self.tokenizer, **(capo or {}))

    async def agent_loop(self, prompt: Any, *arguments: Any, **named: Any) -> Any:
        """SkyRL's agent loop, with token rewards in place of the environment's reward."""
        question = [dict(turn) for turn in prompt]
        output = await super().agent_loop(prompt, *arguments, **named)
        rewards = output.reward
        outcome = float(sum(rewards) if isinstance(rewards, list) else rewards or 0.0)
        sample = Sample(
            question,
            ids=output.response_ids,
            mask=output.loss_mask,
            outcome=min(max(outcome, 0.0), 1.0),
        )
        [scored] = await self.scorer.score([sample])
        if scored.token_rewards is None:  # no credit: masked
            output.reward = [0.0] * len(output.response_ids)
            output.loss_mask = [0] * len(output.loss_mask)
        else:
            output.reward = list(scored.token_rewards)
        output.env_metrics = dict(output.env_metrics or {}) | scored.metrics()
        return output


def register() -> None:
    """Add the advantage estimator `capo`; call it in the trainer's process."""
    from skyrl.backends.skyrl_train.utils.ppo_utils import register_advantage_estimator

    register_advantage_estimator("capo")(capo_advantage)


def capo_advantage(
    token_level_rewards: Any, response_mask: Any, index: Any, **_: Any
) -> tuple[Any, Any]:
    """Eq. 2 over the tokens of each group: advantages (B, T), and the rewards as returns."""
    advantages = token_advantages(token_level_rewards, response_mask, list(index))
    return advantages, token_level_rewards * response_mask
