"""verl with CAPO: a reward manager, dense token rewards, and the advantages of eq. 2.

Five lines of configuration (capo_client is installed on every node; see docs/frameworks.md):

    reward.reward_manager.source=importlib
    reward.reward_manager.module.path=pkg://capo_client.adapters.verl
    reward.reward_manager.name=CapoRewardManager
    +actor_rollout_ref.rollout.agent.agent_loop_manager_class=capo_client.adapters.verl.CapoAgentLoopManager
    algorithm.adv_estimator=capo

and settings of `Scorer` under `+reward.reward_kwargs.capo` (url, voting, reward, fallback, ...).
Each rollout is sent as soon as it is sampled. The agent loop writes its token rewards into
`rm_scores`, and passes `response_mask` to the reward loop: tokens of tools are not judged and get
0.0. If a rollout has several sequences, the last one is judged, and the tokens of the others get
its mean reward.
"""

from __future__ import annotations

import inspect
import logging
import math
from typing import Any

from capo_client.adapters.requirement import require
from capo_client.adapters.scoring import Sample, Scored, Scorer
from capo_client.adapters.turns import policy_flags, policy_runs
from capo_wire.aggregate import METRICS

require("verl", "verl", "0.9.1")

import torch
from verl import DataProto
from verl.experimental.reward_loop.reward_manager.base import RewardManagerBase
from verl.trainer.ppo.core_algos import register_adv_est

from capo_client.adapters._verl_agent_loop import (
    MASK_FIELD,
    TokenScore,
    dense_rewards,
    manager_class,
)
from capo_client.adapters.advantages import token_advantages

_log = logging.getLogger("capo_client.adapters")


class CapoRewardManager(RewardManagerBase):
    """Scores one rollout at a time, as soon as verl has it.

    Settings, under `reward.reward_kwargs.capo`: those of `Scorer`, and
        outcome_from: `reference` (default): the service verifies `reward_model.ground_truth`;
            `compute_score`: verl's own (or your custom) reward function returns it, in [0, 1].
        question_key: the field of `extra_info` with the question. Default: the judge sees the chat
            turns of the prompt.
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
                f"reward_kwargs.capo.outcome_from is {self._outcome_from!r}; use reference or "
                "compute_score"
            )
        self._question_key = settings.pop("question_key", None)
        self.scorer = Scorer(tokenizer=tokenizer, **settings)

    async def run_single(self, data: DataProto) -> dict[str, Any]:
        """verl's interface: `reward_score` (a `TokenScore`) and `reward_extra_info`.

        Returns:
            Unknown metrics, and an unknown `acc`, are NaN, as verl's training reads numbers only.
            For validation, which skips None, `CapoAgentLoopManager` replaces them by None.

        Raises:
            ValueError: the settings do not fit the data, or a multi-turn rollout has no mask.
        """
        item = data[-1:][0]  # the last sequence of the rollout
        fields = item.non_tensor_batch
        ids = _sampled(item)
        mask = _mask_of(item, len(ids))
        extra = dict(fields.get("extra_info") or {})
        truth = (fields.get("reward_model") or {}).get("ground_truth")
        outcome = None
        if self._outcome_from == "compute_score":
            outcome = await self._rule(ids, mask, fields, truth, extra)
        sample = Sample(
            prompt=self._question(fields, extra),
            ids=ids,
            mask=mask,
            reference=truth,
            outcome=outcome,
        )
        [scored] = await self.scorer.score([sample])
        metrics = scored.metrics()
        info = {name: metrics.get(name, math.nan) for name in METRICS}
        info["acc"] = math.nan if scored.outcome is None else scored.outcome
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

    async def _rule(
        self, ids: list[int], mask: list[int], fields: Any, truth: Any, extra: dict[str, Any]
    ) -> float:
        turns = policy_runs(ids, policy_flags(ids, mask))
        text = "\n\n".join(self.tokenizer.decode(turn, skip_special_tokens=True) for turn in turns)
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
                f"compute_score returned {value}, not in [0, 1] (reward.w_whole scales it)"
            )
        return value

    @classmethod
    def assemble_rm_scores(cls, data: DataProto, scores: list[float]) -> torch.Tensor:
        """Token rewards of shape (B, T); a row without credit is NaN, which `capo` leaves out.

        Raises:
            ValueError: a row does not have one reward per token.
        """
        rewards = torch.zeros_like(data.batch["responses"], dtype=torch.float32)
        for row, score in enumerate(scores):
            tokens = getattr(score, "tokens", None)
            if tokens is None:
                rewards[row] = torch.nan
            else:
                size = len(_sampled(data[row]))
                rewards[row, :size] = dense_rewards(tokens, size)
        return rewards


def _sampled(item: Any) -> list[int]:
    """The ids of a response, without padding."""
    ids = item.batch["responses"]
    size = item.non_tensor_batch.get("response_len")  # set if there are several sequences
    if size is None:
        size = item.batch["attention_mask"][-ids.shape[-1] :].sum()
    sampled: list[int] = ids[: int(size)].tolist()
    return sampled


def _mask_of(item: Any, size: int) -> list[int]:
    """1 for each token that the policy sampled."""
    fields = item.non_tensor_batch
    if MASK_FIELD in fields:
        return [int(flag) for flag in fields[MASK_FIELD]]
    if "response_mask" in item.batch.keys():  # noqa: SIM118  # a TensorDict iterates over rows
        return [int(flag) for flag in item.batch["response_mask"][:size]]
    turns = fields.get("__num_turns__") or 0
    if turns > 2:  # a question and an answer
        raise ValueError(
            f"a rollout has {turns} turns and no response_mask, so tokens of tools are not known: "
            "set actor_rollout_ref.rollout.agent.agent_loop_manager_class to "
            "capo_client.adapters.verl.CapoAgentLoopManager"
        )
    return [1] * size


def __getattr__(name: str) -> Any:
    # verl's trainer needs transfer_queue, which a reward loop alone does not.
    if name == "CapoAgentLoopManager":
        return manager_class()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


@register_adv_est("capo")  # type: ignore[untyped-decorator]
def capo_advantage(
    token_level_rewards: torch.Tensor,
    response_mask: torch.Tensor,
    config: Any = None,
    index: Any = None,
    **_: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Eq. 2 over the tokens of each group: advantages (B, T), and the rewards as returns.

    `algorithm.norm_adv_by_std_in_grpo=False` leaves out the standard deviation. Rows with NaN have
    no credit, and are left out.
    """
    if index is None:
        raise ValueError("adv_estimator capo needs uid, which groups the rollouts of a question")
    mask = response_mask.bool() & ~token_level_rewards.isnan().any(1, keepdim=True)
    _warn_if_sparse(token_level_rewards, mask)
    by_deviation = True if config is None else config.get("norm_adv_by_std_in_grpo", True)
    scale: Any = "group" if by_deviation else "none"
    advantages = token_advantages(token_level_rewards, mask, list(index), scale)
    return advantages, token_level_rewards.nan_to_num() * mask


def _warn_if_sparse(rewards: torch.Tensor, mask: torch.Tensor) -> None:
    nonzero = (rewards.nan_to_num() != 0) & mask
    if nonzero.any() and nonzero.sum(1).max() <= 1 < mask.sum(1).max():
        _log.warning(
            "no rollout has a reward on more than one token: is "
            "actor_rollout_ref.rollout.agent.agent_loop_manager_class set to "
            "capo_client.adapters.verl.CapoAgentLoopManager?"
        )


def _score(scored: Scored) -> TokenScore:
    return TokenScore(scored.reward or 0.0, scored.token_rewards)


def _plain(settings: Any) -> dict[str, Any]:
    from omegaconf import OmegaConf

    plain: Any = OmegaConf.to_container(settings) if OmegaConf.is_config(settings) else settings
    return dict(plain or {})
