"""verl's agent loop with token rewards: passes them from the reward loop to the trainer.

verl passes one number per rollout from its reward loop to its trainer. Here that number carries
the rewards of its tokens (`TokenScore`), and the agent loop writes them into `rm_scores`, for each
sequence of the rollout. It also passes to the reward loop what verl does not: `response_mask`, the
tools, and the reward of an agent loop that computes one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

# In `extra_fields` of a sequence, which verl passes to the reward loop as `tool_extra_fields`.
SENT_FIELD = "capo"
VALIDATING_FIELD = "capo_validating"
POSITION_FIELD = "capo_position"


class TokenScore(float):
    """A rollout's mean reward, with the reward of each token.

    `sequences`: for each sequence of the rollout one number per token; None for a rollout without
    credit, whose value is 0.
    """

    sequences: Sequence[Sequence[float]] | None

    def __new__(cls, value: float, sequences: Sequence[Sequence[float]] | None) -> TokenScore:
        self = super().__new__(cls, value)
        self.sequences = sequences
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return TokenScore, (float(self), self.sequences)


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
            position = output["extra_fields"].pop(POSITION_FIELD)
            mask = output["response_mask"]
            sequences = self.reward_score.sequences
            if sequences is None:
                output["response_mask"] = torch.zeros_like(mask)
                output["rm_scores"] = torch.zeros_like(mask, dtype=torch.float32)
            else:
                output["rm_scores"] = dense_rewards(sequences[position], len(mask)) * mask
            return output

    base: Any = AgentLoopWorkerTQ.__ray_metadata__.modified_class

    class CapoAgentLoopWorker(base):
        async def _agent_loop_postprocess(self, output: Any, validate: bool, **kwargs: Any) -> None:
            for sequence in output if isinstance(output, list) else [output]:
                sequence.extra_fields[VALIDATING_FIELD] = bool(validate)
            await super()._agent_loop_postprocess(output, validate, **kwargs)

        async def _compute_score(self, outputs: list[Any], kwargs: dict[str, Any]) -> None:
            validating = [output.extra_fields.pop(VALIDATING_FIELD, False) for output in outputs]
            if self.reward_loop_worker_handles is None:
                await super()._compute_score(outputs, kwargs=kwargs)
                return
            last = outputs[-1]
            for output in outputs:
                output.extra_fields[SENT_FIELD] = {"mask": list(output.response_mask)}
            last.extra_fields[SENT_FIELD] |= {
                "tools": _schemas(self.tools, kwargs.get("extra_info")),
                "outcome": last.reward_score,
            }
            last.reward_score = None  # with one, verl skips the reward loop
            await super()._compute_score(outputs, kwargs=kwargs)
            for output in outputs:
                output.extra_fields.pop(SENT_FIELD)
            if not isinstance(last.reward_score, TokenScore):
                return
            if validating[-1]:
                extra = last.extra_fields
                extra["reward_extra_info"] = _without_nan(extra["reward_extra_info"])
            for position, output in enumerate(outputs):
                output.extra_fields[POSITION_FIELD] = position
                names = output.model_fields_set | {"reward_score", "extra_fields"}
                outputs[position] = CreditedOutput.model_construct(names, **dict(output))

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


def _schemas(tools: Sequence[Any], extra_info: Any) -> list[dict[str, Any]]:
    """The configured tools as verl's tool agent loop shows them to the policy."""
    selected = (extra_info or {}).get("tool_selection")
    return [
        tool.tool_schema.model_dump(exclude_unset=True, exclude_none=True)
        for tool in tools
        if not selected or tool.name in selected
    ]


def _without_nan(info: dict[str, Any]) -> dict[str, Any]:
    """None for NaN: verl's validation averages values that are not None."""
    return {name: None if value != value else value for name, value in info.items()}
