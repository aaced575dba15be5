"""verl's agent loop with token rewards: passes them from the reward loop to the trainer.

verl passes one number per rollout from its reward loop to its trainer. Here that number carries
the rewards of its tokens (`TokenScore`), and the agent loop writes them into `rm_scores`. It also
passes `response_mask` to the reward loop, to which verl passes no mask.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

# The field in which the agent loop passes `response_mask` of the last sequence to the reward loop.
MASK_FIELD = "capo_response_mask"
VALIDATING_FIELD = "capo_validating"


class TokenScore(float):
    """A rollout's mean reward, with the reward of each token.

    `tokens`: T numbers; None for a rollout without credit, whose value is 0.
    """

    tokens: Sequence[float] | None

    def __new__(cls, value: float, tokens: Sequence[float] | None) -> TokenScore:
        self = super().__new__(cls, value)
        self.tokens = tokens
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return TokenScore, (float(self), self.tokens)


def dense_rewards(tokens: Sequence[float], size: int) -> torch.Tensor:
    """Token rewards as a float32 tensor of `size` elements.

    Raises:
        ValueError: the number of token rewards is not `size`.
    """
    if len(tokens) != size:
        raise ValueError(f"a rollout has {len(tokens)} token rewards for {size} tokens")
    return torch.tensor(tokens, dtype=torch.float32)


def worker_class() -> Any:
    """A subclass of the class behind verl's worker, because the worker itself is a Ray actor."""
    from verl.experimental.agent_loop.agent_loop import AgentLoopOutput
    from verl.trainer.ppo.v1.agent_loop_tq import AgentLoopWorkerTQ

    class CreditedOutput(AgentLoopOutput):
        """A sequence of a rollout, with the rewards of its tokens."""

        def as_dict(self) -> dict[str, Any]:
            """verl's fields with dense `rm_scores`; without credit, the mask is zero."""
            output: dict[str, Any] = super().as_dict()
            mask = output["response_mask"]
            tokens = self.token_rewards(len(mask))
            if tokens is None:
                output["response_mask"] = torch.zeros_like(mask)
                output["rm_scores"] = torch.zeros_like(mask, dtype=torch.float32)
            else:
                output["rm_scores"] = dense_rewards(tokens, len(mask)) * mask
            return output

        def token_rewards(self, _: int) -> Sequence[float] | None:
            tokens: Sequence[float] | None = self.reward_score.tokens
            return tokens

    class EarlierOutput(CreditedOutput):
        """A sequence before the last one; verl gives it the score of the last one."""

        def token_rewards(self, size: int) -> Sequence[float] | None:
            score = self.reward_score
            return None if score.tokens is None else [float(score)] * size

    base: Any = AgentLoopWorkerTQ.__ray_metadata__.modified_class

    class CapoAgentLoopWorker(base):
        async def _agent_loop_postprocess(self, output: Any, validate: bool, **kwargs: Any) -> None:
            for sequence in output if isinstance(output, list) else [output]:
                sequence.extra_fields[VALIDATING_FIELD] = bool(validate)
            await super()._agent_loop_postprocess(output, validate, **kwargs)

        async def _compute_score(self, outputs: list[Any], kwargs: dict[str, Any]) -> None:
            validating = [output.extra_fields.pop(VALIDATING_FIELD, False) for output in outputs]
            mask = list(outputs[-1].response_mask)
            await super()._compute_score(outputs, kwargs=kwargs | {MASK_FIELD: mask})
            if not isinstance(outputs[-1].reward_score, TokenScore):
                return
            if validating[-1]:
                extra = outputs[-1].extra_fields
                extra["reward_extra_info"] = _without_nan(extra["reward_extra_info"])
            kinds = [EarlierOutput] * (len(outputs) - 1) + [CreditedOutput]
            for position, (kind, output) in enumerate(zip(kinds, outputs, strict=True)):
                names = output.model_fields_set | {"reward_score"}
                outputs[position] = kind.model_construct(names, **dict(output))

    return CapoAgentLoopWorker


def manager_class() -> Any:
    """`CapoAgentLoopManager`."""
    import ray
    from verl.trainer.ppo.v1.agent_loop_tq import AgentLoopManagerTQ

    class CapoAgentLoopManager(AgentLoopManagerTQ):
        """verl's agent loop manager, for rollouts with token rewards."""

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.agent_loop_workers_class = ray.remote(worker_class())

    return CapoAgentLoopManager


def _without_nan(info: dict[str, Any]) -> dict[str, Any]:
    """None for NaN: verl's validation averages values that are not None."""
    return {name: None if value != value else value for name, value in info.items()}
