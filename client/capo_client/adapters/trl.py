"""TRL's GRPOTrainer with CAPO: a reward function, and a trainer with token-level advantages.

    from capo_client.adapters.trl import CapoGRPOTrainer, CapoReward

    trainer = CapoGRPOTrainer(
        model="Qwen/Qwen2.5-7B",
        reward_funcs=CapoReward(reference="answer"),   # a column of the data
        args=GRPOConfig(...), train_dataset=dataset,
    )

Every token gets its own advantage, by eq. 2 over the tokens of its group or by PASS. With TRL's own
GRPOTrainer, `CapoReward` is an ordinary asynchronous reward function: one number per rollout.
With `tools` or an `environment_factory`, each of the policy's turns is judged; the judge sees the
tools, and what they answered as observations, whose tokens get the advantage 0.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Unpack

from capo_client.adapters.requirement import require
from capo_client.adapters.scoring import Sample, Scored, Scorer, ScorerArgs

require("trl", "trl", "1.16")

import torch
from transformers.utils import get_json_schema
from trl import GRPOTrainer

from capo_client.adapters.advantages import AdvantageLevel, pass_advantages, token_advantages


class CapoReward:
    """A reward function for `reward_funcs`: the mean of each rollout's token rewards.

    Args:
        url: the service. Default: CAPO_URL.
        reference: the column of the data with the reference answer or solution.
        outcome: the verified outcome in [0, 1], in place of a reference: a column, or a function
            that gets what TRL gives reward functions (`environments`, `completions`, columns, ...)
            by name, and returns one number per rollout.
        question: the column with the question as the judge should see it. Default: the prompt
            itself (chat turns, or text).
        tools: the tools that the policy may call, as functions or JSON schemas, for the judge.
            Default: those of `CapoGRPOTrainer`; TRL's own trainer does not pass them on.
        options: arguments of `Scorer`: `voting`, `reward`, `segment`, `fallback`, `deadline`, ...

    Rollouts without credit get None, which TRL leaves out of its statistics. Their share is logged
    as `capo_fallback`, with `capo_wrong_step_rate` and the other names of `Scored.metrics`.

    What tools answer is shown to the judge, and not judged. TRL passes no mask to reward functions,
    so with its own GRPOTrainer a completion with tools is sent as its messages, without token
    rewards. `CapoGRPOTrainer` passes on TRL's `tool_mask`, and a `rollout_func`'s `env_mask`.

    Raises:
        ValueError: the scheme needs `reference` or `outcome`, and neither is given.
    """

    __name__ = "capo"

    def __init__(
        self,
        url: str | Sequence[str] | None = None,
        *,
        reference: str | None = None,
        outcome: str | Callable[..., Sequence[float | None]] | None = None,
        question: str | None = None,
        tools: Sequence[Callable[..., Any] | dict[str, Any]] | None = None,
        **options: Unpack[ScorerArgs],
    ) -> None:
        chosen = options.get("reward") or {}
        scheme = chosen.get("scheme") if isinstance(chosen, Mapping) else chosen.scheme
        if reference is None and outcome is None and scheme != "process_only":
            raise ValueError(
                "CapoReward has neither a reference answer nor an outcome: name the data's column "
                "that holds one (reference=, outcome=), or set reward={'scheme': 'process_only'}"
            )
        self.scorer = Scorer(url, **options)
        self.last: list[Scored] = []
        # For the next call: TRL's tool_mask, and the tools of each rollout.
        self.masks: Sequence[Sequence[int]] | None = None
        self.tools: Sequence[Sequence[dict[str, Any]]] | None = None
        self._tools = schemas(tools or ())
        self._reference = reference
        self._outcome = outcome
        self._question = question

    async def __call__(
        self,
        prompts: Sequence[Any],
        completions: Sequence[Any],
        completion_ids: Sequence[Sequence[int]],
        log_metric: Any = None,
        **columns: Any,
    ) -> list[float | None]:
        """TRL's interface: one reward per rollout."""
        count = len(prompts)
        references = _column(columns, self._reference, count)
        outcomes = self._outcomes(prompts, completions, completion_ids, columns)
        questions = _column(columns, self._question, count) if self._question else prompts
        masks, self.masks = self.masks, None
        tools, self.tools = self.tools, None
        samples = []
        for i in range(count):
            has_unmasked_tools = masks is None and _with_tools(completions[i])
            by_text = has_unmasked_tools or self.scorer.tokenizer is None
            samples.append(
                Sample(
                    prompt=questions[i],
                    ids=None if by_text else completion_ids[i],
                    **(_by_text(completions[i]) if by_text else {}),
                    mask=None if by_text or masks is None else masks[i],
                    tools=self._tools or (tools[i] if tools else None),
                    reference=references[i],
                    outcome=None if outcomes[i] is None else float(outcomes[i]),
                )
            )
        started = time.monotonic()
        self.last = await self.scorer.score(samples)
        if log_metric is not None:
            log_metric("capo_seconds", time.monotonic() - started)
            for scored in self.last:
                for name, value in scored.metrics().items():
                    log_metric(name, value)
        return [scored.reward for scored in self.last]

    def _outcomes(
        self, prompts: Any, completions: Any, completion_ids: Any, columns: dict[str, Any]
    ) -> Sequence[Any]:
        if not callable(self._outcome):
            return _column(columns, self._outcome, len(prompts))
        found = self._outcome(
            prompts=prompts, completions=completions, completion_ids=completion_ids, **columns
        )
        if len(found) != len(prompts):
            raise ValueError(f"outcome returned {len(found)} numbers for {len(prompts)} rollouts")
        return found


class CapoGRPOTrainer(GRPOTrainer):
    """GRPOTrainer whose advantages have the shape (B, T): CAPO, eq. 2, or PASS.

    Takes the arguments of `GRPOTrainer`; one of `reward_funcs` must be a `CapoReward`. The other
    functions' rewards, times their weights, are added to every token of their rollout.
    `scale_rewards` chooses the standard deviation: `group` (the paper's), `batch` or `none`. Tokens
    of tools, and truncated completions under `mask_truncated_completions`, get the advantage 0 and
    are left out of the statistics. A group may be spread over processes.

    Args:
        advantage_level: `token` as in the paper, or `turn`: each turn counts once in the
            statistics, whatever its length.
        advantage: `capo`, eq. 2, or `pass`, see `advantages.pass_advantages`: its outcome is the
            rollout's, with the other functions' rewards. It has statistics of its own, so it takes
            neither `advantage_level` nor `scale_rewards`.

    Raises:
        ValueError: the arguments do not fit one another; the message says what to change.
    """

    def __init__(
        self,
        *args: Any,
        advantage_level: AdvantageLevel = "token",
        advantage: Literal["capo", "pass"] = "capo",
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self._level = advantage_level
        self._advantage = advantage
        if advantage not in ("capo", "pass"):
            raise ValueError(f"advantage is {advantage!r}; choose from capo, pass")
        if advantage == "pass" and (advantage_level, self.scale_rewards) != ("token", "group"):
            raise ValueError(
                "advantage='pass' has statistics of its own: leave advantage_level and "
                "scale_rewards at their defaults"
            )
        indices = [
            index
            for index, function in enumerate(self.reward_funcs)
            if isinstance(function, CapoReward)
        ]
        if len(indices) != 1:
            raise ValueError(
                f"reward_funcs has {len(indices)} CapoReward: CapoGRPOTrainer needs exactly one"
            )
        self._capo_index = indices[0]
        self._capo: CapoReward = self.reward_funcs[indices[0]]
        if self._capo.scorer.tokenizer is None:
            processor = self.processing_class
            self._capo.scorer.tokenizer = getattr(processor, "tokenizer", processor)

    def _generate(self, prompts: Any) -> Any:
        generated = super()._generate(prompts)
        _, _, tool_mask, *_ = generated
        self._capo.masks = tool_mask
        if self.environment_factories is None:
            self._capo.tools = [schemas(self.tools)] * len(prompts) if self.tools else None
        else:  # each rollout has those of its environment
            self._capo.tools = [schemas(self._env_tools[name]) for name in self._batch_environments]
        return generated

    def _calculate_rewards(self, *args: Any, **kwargs: Any) -> Any:
        # Of shape (rollouts of all processes, functions), not yet weighted.
        self._all_rewards = super()._calculate_rewards(*args, **kwargs)
        return self._all_rewards

    def _generate_and_score_completions(self, inputs: Any) -> Any:
        output = super()._generate_and_score_completions(inputs)
        mode = "train" if self.model.training else "eval"
        size = self.num_generations if mode == "train" else self.num_generations_eval
        output["advantages"] = self._token_advantages(output, size)
        return output

    def _token_advantages(self, output: dict[str, Any], group_size: int) -> Any:
        mask = output["completion_mask"].bool()
        if "tool_mask" in output:
            mask = mask & output["tool_mask"].bool()
        rewards = torch.zeros(mask.shape, dtype=torch.float32, device=mask.device)
        outcomes = torch.zeros(len(mask), dtype=torch.float32, device=mask.device)
        for row, scored in enumerate(self._capo.last):
            if scored.token_rewards is None:
                mask[row] = False
                continue
            count, sampled = len(scored.token_rewards), int(output["completion_mask"][row].sum())
            if sampled not in (count, 0):  # 0: TRL masks truncated completions
                raise ValueError(f"a completion has {count} token rewards for {sampled} tokens")
            if sampled:
                rewards[row, :count] = torch.tensor(scored.token_rewards)
                outcomes[row] = self._capo.scorer.outcome_reward(scored.outcome or 0.0)
        rows = len(mask)
        mine = slice(self.accelerator.process_index * rows, None)
        weights = self.reward_weights.to(mask.device)
        others = torch.arange(len(weights), device=mask.device) != self._capo_index
        scalars = (self._all_rewards * weights)[:, others].nansum(dim=1)[mine][:rows]
        rewards = weights[self._capo_index] * rewards + scalars[:, None]
        outcomes = weights[self._capo_index] * outcomes + scalars
        all_rewards, all_masks = (
            self.accelerator.gather(self.accelerator.pad_across_processes(tensor, dim=1))
            for tensor in (rewards, mask.int())
        )
        groups = [row // group_size for row in range(len(all_masks))]
        if self._advantage == "pass":
            whole = self.accelerator.gather(outcomes)
            advantages = pass_advantages(whole, all_rewards - whole[:, None], all_masks, groups)
        else:
            advantages = token_advantages(
                all_rewards, all_masks, groups, self.scale_rewards, self._level
            )
        return advantages[mine][:rows, : mask.shape[1]]


def schemas(tools: Sequence[Callable[..., Any] | dict[str, Any]]) -> list[dict[str, Any]]:
    """Tools as TRL and its chat templates take them, as JSON schemas."""
    return [dict(tool) if isinstance(tool, Mapping) else get_json_schema(tool) for tool in tools]


def _column(columns: dict[str, Any], name: str | None, count: int) -> Sequence[Any]:
    if name is None:
        return [None] * count
    if name not in columns:
        known = ", ".join(sorted(n for n, v in columns.items() if isinstance(v, list)))
        raise ValueError(f"the data has no column {name!r}; it has {known or 'only prompt'}")
    values: Sequence[Any] = columns[name]
    return values


def _by_text(completion: Any) -> dict[str, Any]:
    return {"text": completion} if isinstance(completion, str) else {"turns": completion}


def _with_tools(completion: Any) -> bool:
    """Whether a completion has messages that the policy did not write."""
    return not isinstance(completion, str) and any(
        turn.get("role") != "assistant" for turn in completion
    )
