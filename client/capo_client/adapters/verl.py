"""verl with CAPO: a reward manager, dense token rewards, and the advantages of eq. 2.

Four lines of configuration (capo_client is installed on every node; see docs/frameworks.md):

    reward.reward_manager.source=importlib
    reward.reward_manager.module.path=pkg://capo_client.adapters.verl
    reward.reward_manager.name=CapoRewardManager
    +actor_rollout_ref.rollout.agent.agent_loop_manager_class=capo_client.adapters.verl.CapoAgentLoopManager
    algorithm.adv_estimator=capo

and settings of `Scorer` under `+reward.reward_kwargs.capo` (url, voting, reward, fallback, ...).
Each rollout is sent as soon as it is sampled, while others still are. verl carries one number a
rollout from its reward loop to its trainer; here that number brings the tokens' rewards along
(`TokenScore`), and the agent loop puts them into `rm_scores`.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Sequence
from typing import Any

from capo_client.adapters.requirement import require
from capo_client.adapters.scoring import Sample, Scored, Scorer

require("verl", "verl", "0.9.1")

import torch
from verl import DataProto
from verl.experimental.reward_loop.reward_manager.base import RewardManagerBase
from verl.trainer.ppo.core_algos import register_adv_est

from capo_client.adapters.advantages import token_advantages

_log = logging.getLogger("capo_client.adapters")


class TokenScore(float):
    """A rollout's mean reward that remembers the reward of each token.

    `tokens`: T numbers, or None for a rollout without credit, whose value is then 0.
    """

    tokens: Sequence[float] | None

    def __new__(cls, value: float, tokens: Sequence[float] | None) -> TokenScore:
        self = super().__new__(cls, value)
        self.tokens = tokens
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return TokenScore, (float(self), self.tokens)


class CapoRewardManager(RewardManagerBase):
    """Scores one rollout at a time, each as soon as verl has it.

    Settings, under `reward.reward_kwargs.capo`: those of `Scorer`, and
        outcome_from: `reference` (default): the service verifies `reward_model.ground_truth`;
            `compute_score`: verl's own (or your custom) reward function says it, in [0, 1].
        question_key: the field of `extra_info` that holds the question; by default the judge sees
            the whole prompt's chat.
    """

    def __init__(
        self,
        config: Any,
        tokenizer: Any,
        compute_score: Any,
        reward_router_address: str | None = None,
        reward_model_tokenizer: Any = None,
    ) -> None:
        super().__init__(config, tokenizer, compute_score)
        settings = _plain(config.reward.get("reward_kwargs", {}).get("capo", {}))
        self._outcome_from = settings.pop("outcome_from", "reference")
        if self._outcome_from not in ("reference", "compute_score"):
            raise ValueError(
                f"reward_kwargs.capo.outcome_from is {self._outcome_from!r}; take reference or "
                "compute_score"
            )
        self._question_key = settings.pop("question_key", None)
        self.scorer = Scorer(tokenizer=tokenizer, **settings)

    async def run_single(self, data: DataProto) -> dict[str, Any]:
        """As verl asks: `reward_score` (a `TokenScore`) and `reward_extra_info`."""
        item = data[-1:][0]  # of several sequences of a rollout, the last
        ids = item.batch["responses"]
        size = int(item.batch["attention_mask"][-ids.shape[-1] :].sum())
        fields = item.non_tensor_batch
        extra = dict(fields.get("extra_info") or {})
        truth = (fields.get("reward_model") or {}).get("ground_truth")
        outcome = None
        if self._outcome_from == "compute_score":
            outcome = await self._rule(ids[:size], fields, truth, extra)
        sample = Sample(
            prompt=self._question(fields, extra),
            ids=ids[:size].tolist(),
            reference=None if truth is None else str(truth),
            outcome=outcome,
        )
        [scored] = await self.scorer.score([sample])
        info = scored.metrics() | {"acc": scored.outcome or 0.0}
        return {"reward_score": _score(scored), "reward_extra_info": info}

    def _question(self, fields: Any, extra: dict[str, Any]) -> Any:
        if self._question_key is None:
            return [dict(turn) for turn in fields["raw_prompt"]]
        if self._question_key not in extra:
            raise ValueError(
                f"extra_info has no {self._question_key!r} (reward_kwargs.capo.question_key); it "
                f"has {', '.join(sorted(extra)) or 'nothing'}"
            )
        return str(extra[self._question_key])

    async def _rule(self, ids: Any, fields: Any, truth: Any, extra: dict[str, Any]) -> float:
        text = self.tokenizer.decode(ids, skip_special_tokens=True)
        arguments = {
            "data_source": fields["data_source"],
            "solution_str": text,
            "ground_truth": truth,
            "extra_info": extra,
        }
        if inspect.iscoroutinefunction(self.compute_score):
            result = await self.compute_score(**arguments)
        else:
            result = await self.loop.run_in_executor(None, lambda: self.compute_score(**arguments))
        value = float(result["score"] if isinstance(result, dict) else result)
        if not 0 <= value <= 1:
            raise ValueError(
                f"compute_score gave {value}; an outcome is in [0, 1] (reward.w_whole weighs it)"
            )
        return value

    @classmethod
    def assemble_rm_scores(cls, data: DataProto, scores: list[float]) -> torch.Tensor:
        """(B, T) token rewards; a row without credit is NaN, which `capo` leaves out."""
        rewards = torch.zeros_like(data.batch["responses"], dtype=torch.float32)
        for row, score in enumerate(scores):
            tokens = getattr(score, "tokens", None)
            if tokens is None:
                rewards[row] = torch.nan
            else:
                rewards[row, : len(tokens)] = torch.tensor(tokens)
        return rewards


def _worker_class() -> Any:
    """verl's worker is a Ray actor, which cannot be subclassed: its class can."""
    from verl.experimental.agent_loop.agent_loop import AgentLoopOutput
    from verl.trainer.ppo.v1.agent_loop_tq import AgentLoopWorkerTQ

    class CreditedOutput(AgentLoopOutput):
        """The last sequence of a rollout, with the rewards of its tokens."""

        def as_dict(self) -> dict[str, Any]:
            """As verl's, with dense `rm_scores`; no token counts where there is no credit."""
            output: dict[str, Any] = super().as_dict()
            mask = output["response_mask"]
            tokens = self.reward_score.tokens
            if tokens is None:
                output["response_mask"] = torch.zeros_like(mask)
                output["rm_scores"] = torch.zeros_like(mask, dtype=torch.float32)
            else:
                output["rm_scores"] = torch.tensor(tokens, dtype=torch.float32)[: len(mask)] * mask
            return output

    base: Any = AgentLoopWorkerTQ.__ray_metadata__.modified_class

    class CapoAgentLoopWorker(base):
        async def _compute_score(self, outputs: list[Any], kwargs: dict[str, Any]) -> None:
            await super()._compute_score(outputs, kwargs=kwargs)
            last = outputs[-1]
            if isinstance(last.reward_score, TokenScore):
                names = last.model_fields_set | {"reward_score"}
                outputs[-1] = CreditedOutput.model_construct(names, **dict(last))

    return CapoAgentLoopWorker


def __getattr__(name: str) -> Any:
    # verl's trainer needs transfer_queue, which a reward loop alone does not.
    if name == "CapoAgentLoopManager":
        return _manager_class()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _manager_class() -> Any:
    import ray
    from verl.trainer.ppo.v1.agent_loop_tq import AgentLoopManagerTQ

    class CapoAgentLoopManager(AgentLoopManagerTQ):
        """verl's agent loop manager whose rollouts keep the rewards of their tokens."""

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.agent_loop_workers_class = ray.remote(_worker_class())

    return CapoAgentLoopManager


@register_adv_est("capo")  # type: ignore[untyped-decorator]
def capo_advantage(
    token_level_rewards: torch.Tensor,
    response_mask: torch.Tensor,
    config: Any = None,
    index: Any = None,
    **_: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Eq. 2 over the tokens of each group: (B, T) advantages, and the rewards as returns.

    `algorithm.norm_adv_by_std_in_grpo=False` leaves out the standard deviation. Rows with NaN have
    no credit and no part.
    """
    if index is None:
        raise ValueError("adv_estimator capo needs uid: which rollouts are of one question")
    mask = response_mask.bool() & ~token_level_rewards.isnan().any(1, keepdim=True)
    _warn_if_sparse(token_level_rewards, mask)
    by_deviation = True if config is None else config.get("norm_adv_by_std_in_grpo", True)
    scale: Any = "group" if by_deviation else "none"
    advantages = token_advantages(token_level_rewards, mask, list(index), scale)
    return advantages, token_level_rewards.nan_to_num() * mask


def _warn_if_sparse(rewards: torch.Tensor, mask: torch.Tensor) -> None:
    marked = (rewards.nan_to_num() != 0) & mask
    if marked.any() and marked.sum(1).max() <= 1 < mask.sum(1).max():
        _log.warning(
            "no rollout has a reward on more than one token: is "
            "actor_rollout_ref.rollout.agent.agent_loop_manager_class set to "
            "capo_client.adapters.verl.CapoAgentLoopManager?"
        )


def _score(scored: Scored) -> TokenScore:
    return TokenScore(scored.reward or 0.0, scored.token_rewards)


def _plain(settings: Any) -> dict[str, Any]:
    from omegaconf import OmegaConf

    found: Any = OmegaConf.to_container(settings) if OmegaConf.is_config(settings) else settings
    return dict(found or {})
