"""The sections of a recipe: every setting with its default and its limits."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

import capo_wire as wire
from capo_trainer.algorithm import Advantage, Average
from capo_trainer.placement import Placement

Positive = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]

_VOTING, _REWARD = wire.Voting(), wire.Reward()


class Section(BaseModel):
    """A part of a recipe: an unknown setting is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Policy(Section):
    """The model that learns."""

    model: str = Field(description="Hub name or folder; `embedded` is the embedded model.")
    precision: Literal["fp32", "bf16"] = Field(
        "fp32", description="bf16: mixed precision; weights and optimiser stay in fp32."
    )
    gradient_checkpointing: bool = False
    system: str | None = Field(None, description="System turn before each question.")
    suffix: str = Field("", description="Appended to each question.")


class Data(Section):
    """Questions to learn from."""

    prompts: Path = Field(description="JSON lines with `question` and `answer`.")
    shuffle: bool = True
    verifier: str = Field(
        "math_verify",
        description="Verifier of r_v: `math_verify`, or `module:function` of (response, answer).",
    )
    environment: str | None = Field(
        None,
        description="Environment of multi-turn rollouts: `module:function` of (question, key), "
        "whose result has `answer(turn)`. Default: rollouts have one turn.",
    )
    prompts_per_step: Positive = Field(12, description="Questions per step, over all processes.")
    max_prompt_tokens: Positive = 1024


class Sampling(Section):
    """How rollouts are sampled (the paper: 16, at temperature 0.7 and top-p 0.9)."""

    engine: Literal["transformers", "openai"] = "transformers"
    url: str | None = Field(None, description="Engine openai: base URL, as http://host:8000/v1.")
    served_model: str | None = Field(
        None, description="Engine openai: the policy's name on the server."
    )
    weight_sync: Literal["none", "vllm_reload"] = Field(
        "none", description="Engine openai: how the server gets new weights after each step."
    )
    rollouts_per_prompt: Annotated[int, Field(ge=2)] = 16
    temperature: Annotated[float, Field(gt=0, le=2)] = 0.7
    top_p: Annotated[float, Field(gt=0, le=1)] = 0.9
    max_tokens: Positive = Field(1024, description="Of a rollout; with an environment, of a turn.")
    max_turns: Positive = Field(16, description="With data.environment: turns of a rollout.")
    batch: Positive = Field(64, description="Rollouts sampled in one batch.")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.engine == "openai") != (self.url is not None):
            raise ValueError("engine openai and url go together: give both, or neither")
        if self.weight_sync != "none" and self.engine != "openai":
            raise ValueError("weight_sync is for engine openai")
        return self


class CreditSection(Section):
    """Options of credit, and what happens if the service fails.

    The options of voting, reward and segmentation are those of `capo_wire`, which has their
    defaults and limits; here they are flat, as recipes write them.
    """

    reward: Literal["capo", "outcome", "generative_outcome"] = Field(
        "capo",
        description="capo: eq. 1. outcome: r_v alone, no service. generative_outcome: eq. 3.",
    )
    url: str | None = Field(
        None, description="URL of the service. Default: CAPO_URL, or port 8000 of this machine."
    )
    tokenizer: str | None = Field(
        None, description="Name of the policy's tokenizer at the service."
    )
    method: wire.VotingMethod = _VOTING.method
    n: int | None = Field(_VOTING.n, description="Critiques, k.")
    early_stop: bool = _VOTING.early_stop
    temperature: float | None = _VOTING.temperature
    top_p: float | None = _VOTING.top_p
    max_tokens: int = _VOTING.max_tokens
    thinking_tokens: int | None = Field(
        _VOTING.thinking_tokens, description="Thinking budget of the judge. Default: the service's."
    )
    seed: int | None = _VOTING.seed
    source: str = Field(
        "service",
        description="`service`, or `module:name` of a source in its place "
        "(capo_trainer.credit_source).",
    )
    source_options: dict[str, Any] = Field(
        default_factory=dict, description="For a source of your own; the service has none."
    )
    placement: Placement = Field(
        "judge",
        description="A control for experiments: the judge's penalties at other places of the "
        "rollout (capo_trainer.placement).",
    )
    segment: wire.SegmentMethod | None = None
    w_whole: float = _REWARD.w_whole
    w_process: float = _REWARD.w_process
    alpha: float = Field(1.0, description="generative_outcome: alpha of eq. 3.")
    beta: float = Field(1.0, description="generative_outcome: beta of eq. 3.")
    show_reference: bool = True
    deadline: Annotated[float, Field(gt=0)] = Field(
        300.0, description="Timeout in seconds for the credit of one step, including retries."
    )
    ready_within: Annotated[float, Field(ge=0)] = Field(
        300.0, description="Seconds to wait at the start until the service is ready."
    )
    on_failure: Literal["skip", "outcome"] = Field(
        "skip",
        description="Rollouts without credit: left out, or rewarded by the outcome alone.",
    )
    overlap: bool = Field(True, description="Send rollouts while others are still sampled.")
    bundle: Positive = Field(4, description="Finished rollouts of a question sent together.")
    allow_other_version: bool = False

    @property
    def voting(self) -> wire.Voting:
        """How the service samples critiques and votes."""
        return wire.Voting(
            method=self.method,
            n=self.n,
            early_stop=self.early_stop,
            temperature=self.temperature,
            top_p=self.top_p,
            max_tokens=self.max_tokens,
            thinking_tokens=self.thinking_tokens,
            seed=self.seed,
        )

    @property
    def weights(self) -> wire.Reward:
        """The weights of eq. 1; building them checks their limits when a recipe is loaded."""
        return wire.Reward(w_whole=self.w_whole, w_process=self.w_process)

    @property
    def segmentation(self) -> wire.Segment:
        """How the service cuts steps."""
        return wire.Segment(method=self.segment)

    @model_validator(mode="after")
    def _within_limits(self) -> Self:
        # Each raises where a value is beyond what the service takes; the fields keep their names.
        _ = self.voting, self.weights, self.segmentation
        return self


class Algorithm(Section):
    """Advantages and loss."""

    advantage: Advantage = "capo"
    average: Average = Field(
        "rollout",
        description="rollout: mean of means per rollout (the paper). token: over tokens.",
    )
    clip_low: Share = 0.2
    clip_high: Annotated[float, Field(ge=0)] = 0.2
    kl: Annotated[float, Field(ge=0)] = Field(
        0.01, description="Coefficient of the KL divergence from the reference policy."
    )
    epochs: Positive = Field(4, description="Passes over each step's rollouts.")
    minibatch: Positive | None = Field(
        None, description="Rollouts per update, over all processes. Default: all of a step."
    )
    micro_batch: Positive = Field(8, description="Rollouts per backward pass of a process.")
    truncated: Literal["keep", "mask"] = Field(
        "keep", description="Rollouts cut off at max_tokens: learnt from, or masked."
    )
    format_reward: float = Field(
        0.0, description="Added to r_v * w_whole if the response matches format_pattern."
    )
    format_pattern: str = Field(
        r"\\boxed\{.+\}", description="Python regular expression of a well-formed response."
    )


class Optimiser(Section):
    """AdamW with a cosine schedule after a linear warm-up."""

    learning_rate: Annotated[float, Field(gt=0)] = 1e-7
    final_share: Share = Field(0.0, description="Final learning rate as a share of learning_rate.")
    warmup: Share = Field(0.05, description="Warm-up as a share of all updates.")
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    betas: tuple[Share, Share] = (0.9, 0.95)
    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0


class Evaluation(Section):
    """Measured during training."""

    prompts: Path | None = Field(
        None, description="Held-out questions; without them there is no evaluation."
    )
    every: Positive = Field(
        10, description="Steps between evaluations; the last step is always evaluated."
    )
    at_start: bool = Field(True, description="Evaluate before the first step.")
    limit: Positive | None = Field(None, description="Maximum number of questions.")
    samples: Annotated[int, Field(ge=0)] = Field(
        0, description="Sampled answers per question, in addition to the greedy one."
    )
    checker: str = Field(
        "service",
        description="Checker of steps: `service`, `none`, or `module:function` of "
        "(question, steps).",
    )


class Checkpoints(Section):
    """What a killed run resumes from."""

    every: Positive = 20
    keep: Positive = 2


class Logging(Section):
    """Logs in addition to the console and metrics.jsonl."""

    tensorboard: bool = True
    wandb: str | None = Field(None, description="A Weights & Biases project; needs wandb.")
    samples: Annotated[int, Field(ge=0)] = Field(0, description="Rollouts printed at each step.")
    rollouts: Annotated[int, Field(ge=0)] = Field(
        4,
        description="Rollouts of each step that are written to rollouts.jsonl with their credit, "
        "for the inspector's training view.",
    )
