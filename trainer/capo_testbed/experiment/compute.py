"""FLOPs of a run: sampling, training, and the judge.

Counted as by Kaplan et al. (arXiv 2001.08361, section 2.1) and Hoffmann et al. (arXiv 2203.15556,
appendix F): a matrix product costs 2 FLOPs for each parameter and token, attention 4 for each
layer, unit of width and pair of a token and one that it attends to (2 for the scores, 2 for the
weighted sum), and a backward pass twice a forward pass. Logits are counted where they are computed,
as by Hoffmann et al.; looking up embeddings, normalisation, softmax, the optimiser and padding are
not. Rollouts of a run are taken to be equally long, and so are its critiques: attention, the only
part that is not linear in the length, is a small part of the whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

# Attention grows with layers x width. In a family of models whose layers and width grow together,
# parameters grow as layers x width^2, so attention as parameters^(2/3).
_ATTENTION_POWER = 2 / 3


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes of a Llama. `width`: hidden size; `heads`, `kv_heads`, `head`: of attention."""

    layers: int
    width: int
    feed_forward: int
    heads: int
    kv_heads: int
    head: int
    vocabulary: int

    @classmethod
    def of_config(cls, config: Mapping[str, Any]) -> Shape:
        """From a model's config.json."""
        heads, width = config["num_attention_heads"], config["hidden_size"]
        return cls(
            layers=config["num_hidden_layers"],
            width=width,
            feed_forward=config["intermediate_size"],
            heads=heads,
            kv_heads=config.get("num_key_value_heads", heads),
            head=config.get("head_dim") or width // heads,
            vocabulary=config["vocab_size"],
        )

    @property
    def matrices(self) -> int:
        """Parameters of all layers; norms left out."""
        attention = 2 * self.width * self.head * (self.heads + self.kv_heads)
        return self.layers * (attention + 3 * self.width * self.feed_forward)

    @property
    def parameters(self) -> int:
        """With the embeddings, which are tied to the output."""
        return self.matrices + self.width * self.vocabulary

    @property
    def cost(self) -> Cost:
        """Of its forward pass."""
        return Cost(
            token=2 * self.matrices,
            logits=2 * self.width * self.vocabulary,
            pair=4 * self.layers * self.heads * self.head,
        )


@dataclass(frozen=True, slots=True)
class Cost:
    """FLOPs of a forward pass: of each token, of each token whose logits are computed, and of each
    pair of a token and one that it attends to (itself included)."""

    token: float
    logits: float
    pair: float

    def scaled(self, factor: float) -> Cost:
        """Of a model of `factor` times the parameters."""
        return Cost(self.token * factor, self.logits * factor, self.pair * factor**_ATTENTION_POWER)


@dataclass(frozen=True, slots=True)
class Flops:
    """Of a run, by part.

    Attributes:
        prefill: of the policy's prompts, once for each rollout.
        decode: of the policy's responses.
        training: log-probabilities before the first update, and forward and backward passes.
        judge_prefill: of the judge's prompt tokens that were not in its cache.
        judge_decode: of its critiques.
        judge_cached: attention to cached tokens, which is all that they cost.
    """

    prefill: float
    decode: float
    training: float
    judge_prefill: float = 0.0
    judge_decode: float = 0.0
    judge_cached: float = 0.0

    @property
    def policy(self) -> float:
        """Sampling and training."""
        return self.prefill + self.decode + self.training

    @property
    def judge(self) -> float:
        """All of the judge."""
        return self.judge_prefill + self.judge_decode + self.judge_cached

    @property
    def total(self) -> float:
        """Everything."""
        return self.policy + self.judge


def pairs(length: float) -> float:
    """Pairs of a token and itself or an earlier one, in a sequence."""
    return length * (length + 1) / 2


def run_flops(
    total: Mapping[str, float], policy: Cost, judge: Cost, epochs: int = 1, old: bool = True
) -> Flops:
    """FLOPs of a run.

    Args:
        total: its totals, as `Result.of_seed` gives them.
        policy: cost of the policy.
        judge: cost of the judge.
        epochs: over each step's rollouts.
        old: whether log-probabilities under the policy that sampled are computed before the first
            update, which the trainer does where a step has more than one update.
    """
    rollouts = total["rollouts"]
    if not rollouts:
        return Flops(0.0, 0.0, 0.0)
    prompt, response = total["prompt_tokens"] / rollouts, total["tokens"] / rollouts
    length = prompt + response
    # One pass over a rollout; logits only where a token is sampled.
    forward = rollouts * (
        policy.token * length + policy.pair * pairs(length) + policy.logits * response
    )
    prefill = rollouts * (policy.token * prompt + policy.pair * pairs(prompt))
    passes = 3 * epochs + (1 if old else 0)
    return Flops(prefill, forward - prefill, passes * forward, *_judge(total, judge))


def _judge(total: Mapping[str, float], cost: Cost) -> tuple[float, float, float]:
    """Prefill, decode, and attention to cached tokens."""
    critiques = total["critiques"]
    if not critiques:
        return 0.0, 0.0, 0.0
    cached = total["judge_cached_tokens"] / critiques
    read = total["judge_prompt_tokens"] / critiques - cached
    written = total["judge_completion_tokens"] / critiques
    prefill = cost.token * read + cost.pair * pairs(read)
    decode = (cost.token + cost.logits) * written + cost.pair * (written * read + pairs(written))
    attended = cost.pair * cached * (read + written)
    return critiques * prefill, critiques * decode, critiques * attended
