"""The policy: weights, tokenizer, prompts, learning-rate schedule."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from capo_trainer.errors import RecipeError
from capo_trainer.paths import cache_folder
from capo_trainer.sections import Optimiser, Policy


def load_policy(settings: Policy) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A causal language model in fp32, and its tokenizer.

    Raises:
        RecipeError: the model cannot be loaded, or has no end token.
    """
    name = embedded_folder() if settings.model == "embedded" else settings.model
    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
        model = AutoModelForCausalLM.from_pretrained(name, dtype=torch.float32)
    except (OSError, ValueError) as error:
        raise RecipeError(f"policy.model {settings.model!r} cannot be loaded: {error}") from error
    if tokenizer.eos_token_id is None:
        raise RecipeError(f"the tokenizer of {settings.model!r} has no end token")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0  # the policy that samples and the one that learns must be the same
    if settings.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    return model, tokenizer


def embedded_folder() -> Path:
    """The folder that the service unpacked the embedded model to."""
    found = sorted(cache_folder().glob("SmolLM2-135M-Instruct-*/config.json"))
    if not found:
        raise RecipeError(
            "policy.model = 'embedded' is not on this machine: `capo serve` unpacks it; start it "
            "once, or name a model"
        )
    return found[-1].parent


def encode_prompt(tokenizer: PreTrainedTokenizerBase, question: str, policy: Policy) -> list[int]:
    """Token ids of a prompt, by the policy's chat template, or of the plain text without one."""
    text = question + policy.suffix
    if tokenizer.chat_template:
        turns = [{"role": "system", "content": policy.system}] if policy.system else []
        text = tokenizer.apply_chat_template(
            [*turns, {"role": "user", "content": text}], tokenize=False, add_generation_prompt=True
        )
        return list(tokenizer.encode(text, add_special_tokens=False))
    return list(
        tokenizer.encode(f"{policy.system}\n\n{text}\n\n" if policy.system else f"{text}\n\n")
    )


def cosine(
    optimiser: torch.optim.Optimizer, settings: Optimiser, updates: int
) -> torch.optim.lr_scheduler.LambdaLR:
    """Linear warm-up, then cosine decay to `final_share` of the learning rate at the end."""
    warm = round(settings.warmup * updates)

    def share(update: int) -> float:
        if update < warm:
            return (update + 1) / (warm + 1)
        along = (update - warm) / max(updates - warm, 1)
        low = settings.final_share
        return low + (1 - low) * (1 + math.cos(math.pi * min(along, 1.0))) / 2

    return torch.optim.lr_scheduler.LambdaLR(optimiser, share)
