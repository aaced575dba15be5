"""verl with CAPO: a reward manager, dense token rewards, and the advantages of eq. 2.

Five lines of configuration (capo_client is installed on every node; see docs/frameworks.md):

    reward.reward_manager.source=importlib
    reward.reward_manager.module.path=pkg://capo_client.adapters.verl
    reward.reward_manager.name=CapoRewardManager
    +actor_rollout_ref.rollout.agent.agent_loop_manager_class=capo_client.adapters.verl.CapoAgentLoopManager
    algorithm.adv_estimator=capo

and settings of `Scorer` under `+reward.reward_kwargs.capo` (url, voting, reward, fallback, ...).
Each rollout is sent as soon as it is sampled. The agent loop writes its token rewards into
`rm_scores`, and passes `response_mask` to the reward loop: the judge sees tokens of tools as
observations, and they get 0.0. If a rollout has several sequences (context compaction), they are
judged as one trajectory, and each token of each sequence gets its own reward. If an agent loop
computes `reward_score` itself, that is the outcome.
"""

from __future__ import annotations

import inspect
import logging
import math
from typing import Any

from capo_client.adapters.requirement import require
from capo_client.adapters.scoring import Sample, Scored, Scorer
from capo_client.adapters.sequences import TokenSequence, Trajectory, join
from capo_client.adapters.turns import policy_flags, policy_runs
from capo_wire.aggregate import METRICS

require("verl", "verl", "0.9.1")

import torch
from verl import DataProto
from verl.experimental.reward_loop.reward_manager.base import RewardManagerBase
from verl.trainer.ppo.core_algos import register_adv_est

from capo_client.adapters._verl_agent_loop import (
    SENT_FIELD,
    TokenScore,
    dense_rewards,
    manager_class,
)
from capo_client.adapters.advantages import AdvantageLevel, token_advantages

_log = logging.getLogger("capo_client.adapters")


class CapoRewardManager(RewardManagerBase):
    """Scores one rollout at a time, as soon as verl has it.

    Settings, under `reward.reward_kwargs.capo`: those of `Scorer`, and
        outcome_from: `reference` (default): the service verifies `reward_model.ground_truth`;
            `compute_score`: verl's own (or your custom) reward function returns it, in [0, 1]. Of
            several sequences it gets the last one's text. A `reward_score` of the agent loop
            itself goes before both.
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
        items = [data[row] for row in range(len(data))]
        fields = items[-1].non_tensor_batch
        sequences = [_sequence(item) for item in items]
        joined = join(sequences)
        extra = dict(fields.get("extra_info") or {})
        truth = (fields.get("reward_model") or {}).get("ground_truth")
        sent = _sent(items[-1])
        outcome = sent.get("outcome")
        if outcome is None and self._outcome_from == "compute_score":
            outcome = await self._rule(sequences[-1], fields, truth, extra)
        sample = Sample(
            prompt=self._question(fields, extra),
            ids=joined.ids,
            mask=joined.mask,
            tools=sent.get("tools"),
            reference=truth,
            outcome=outcome,
        )
        [scored] = await self.scorer.score([sample])
        metrics = scored.metrics()
        info = {name: metrics.get(name, math.nan) for name in METRICS}
        info["acc"] = math.nan if scored.outcome is None else scored.outcome
        return {"reward_score": _score(scored, joined), "reward_extra_info": info}

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
        self, last: TokenSequence, fields: Any, truth: Any, extra: dict[str, Any]
    ) -> float:
        turns = policy_runs(last.response, policy_flags(last.response, last.mask))
        text = "\n\n".join(self.tokenizer.decode(turn, skip_special_tokens=True) for turn in turns)
        arguments = {
            "data_source": fields["data_source"],
            "solution_str": text,
            "ground_truth": truth,
            "extra_info": extra | _of_agent_loop(fields),
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
            sequences = getattr(score, "sequences", None)
            if sequences is None:
                rewards[row] = torch.nan
            else:
                size = len(_sampled(data[row]))
                rewards[row, :size] = dense_rewards(sequences[-1], size)
        return rewards


def _sequence(item: Any) -> TokenSequence:
    ids = _sampled(item)
    size = item.non_tensor_batch.get("prompt_len")  # set by the agent loop
    prompt = [] if size is None else item.batch["prompts"][: int(size)].tolist()
    return TokenSequence(prompt, ids, _mask_of(item, len(ids)))


def _sent(item: Any) -> dict[str, Any]:
    """What the agent loop passes for a sequence; nothing without `CapoAgentLoopManager`."""
    sent: dict[str, Any] = (item.non_tensor_batch.get("tool_extra_fields") or {}).get(
        SENT_FIELD, {}
    )
    return sent


def _of_agent_loop(fields: Any) -> dict[str, Any]:
    """What verl's own reward managers add to `extra_info` of a reward function."""
    given = fields.get("tool_extra_fields") or {}
    return {name: value for name, value in given.items() if name != SENT_FIELD} | {
        "num_turns": fields.get("__num_turns__"),
        "rollout_reward_scores": fields.get("reward_scores", {}),
    }


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
    mask = _sent(item).get("mask")
    if mask is not None:
        return [int(flag) for flag in mask]
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
    no credit, and are left out. Sequences of a rollout are rows of its group.
    """
    return _advantage(token_level_rewards, response_mask, config, index, "token")


@register_adv_est("capo_turn")  # type: ignore[untyped-decorator]
def capo_turn_advantage(
    token_level_rewards: torch.Tensor,
    response_mask: torch.Tensor,
    config: Any = None,
    index: Any = None,
    **_: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    """As `capo_advantage`, with the statistics over turns, each of which counts once."""
    return _advantage(token_level_rewards, response_mask, config, index, "turn")


def _advantage(
    token_level_rewards: torch.Tensor,
    response_mask: torch.Tensor,
    config: Any,
    index: Any,
    level: AdvantageLevel,
) -> tuple[torch.Tensor, torch.Tensor]:
    if index is None:
        raise ValueError("adv_estimator capo needs uid, which groups the rollouts of a question")
    mask = response_mask.bool() & ~token_level_rewards.isnan().any(1, keepdim=True)
    _warn_if_sparse(token_level_rewards, mask)
    by_deviation = True if config is None else config.get("norm_adv_by_std_in_grpo", True)
    scale: Any = "group" if by_deviation else "none"
    advantages = token_advantages(token_level_rewards, mask, list(index), scale, level)
    return advantages, token_level_rewards.nan_to_num() * mask


def _warn_if_sparse(rewards: torch.Tensor, mask: torch.Tensor) -> None:
    nonzero = (rewards.nan_to_num() != 0) & mask
    if nonzero.any() and nonzero.sum(1).max() <= 1 < mask.sum(1).max():
        _log.warning(
            "no rollout has a reward on more than one token: is "
            "actor_rollout_ref.rollout.agent.agent_loop_manager_class set to "
            "capo_client.adapters.verl.CapoAgentLoopManager?"
        )


def _score(scored: Scored, joined: Trajectory) -> TokenScore:
    rewards = scored.token_rewards
    return TokenScore(scored.reward or 0.0, None if rewards is None else joined.split(rewards))


def _plain(settings: Any) -> dict[str, Any]:
    from omegaconf import OmegaConf

    plain: Any = OmegaConf.to_container(settings) if OmegaConf.is_config(settings) else settings
    return dict(plain or {})
