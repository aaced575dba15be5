"""Each recipe trains a small model of its policy's architecture, against a real service.

Scaled down are the steps, questions, rollouts and tokens; an OpenAI-compatible sampler is replaced by
the trainer's own. All else is the recipe's. The stand-in writes gibberish, so its outcome is a rule
that gibberish meets now and then.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    PretrainedConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
)

from capo_trainer.recipe import load_recipe
from capo_trainer.train import train
from kit import tokenizer
from kit_engine import Running, capo_serve, running
from kit_trainer import records

pytestmark = pytest.mark.usefixtures("fresh_accelerate")
RECIPES = Path(__file__).parents[2] / "recipes"
PROMPTS = RECIPES / "sample_prompts.jsonl"
# Configuration, hidden size, query heads, and whether embeddings are tied; one key head serves as many
# query heads as in the models' own configurations.
STAND_INS: dict[str, tuple[type[PretrainedConfig], int, int, bool]] = {
    "Qwen/Qwen2.5-1.5B-Instruct": (Qwen2Config, 96, 6, True),
    "Qwen/Qwen2.5-7B-Instruct": (Qwen2Config, 112, 7, False),
    "embedded": (LlamaConfig, 96, 3, True),
}
CHAT = (
    "{% for turn in messages %}<|im_start|>{{ turn.role }}\n{{ turn.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer("qwen"),
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        chat_template=CHAT,
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def service(words: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """The arithmetic checker, which serves the tokenizer under the names that recipes use."""
    names = ("policy", "SmolLM2-135M-Instruct")
    served = [each for name in names for each in ("--tokenizer", f"{name}={words}")]
    command, port = capo_serve("--engine", "symbolic", *served)
    log = tmp_path_factory.mktemp("logs") / "service.log"
    with running(command, port, "/health/ready", log, "symbolic") as found:
        yield found


def stand_in(model: str, words: Path, folder: Path) -> Path:
    vocabulary = PreTrainedTokenizerFast.from_pretrained(words)
    vocabulary.save_pretrained(folder)
    kind, hidden, heads, tied = STAND_INS[model]
    config = kind(
        hidden_size=hidden,
        num_attention_heads=heads,
        num_key_value_heads=1,
        tie_word_embeddings=tied,
        num_hidden_layers=2,
        intermediate_size=128,
        vocab_size=len(vocabulary),
        eos_token_id=vocabulary.eos_token_id,
        initializer_range=0.3,
    )
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


@pytest.mark.timeout(300)
@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.toml")), ids=lambda path: path.stem)
def test_a_recipe_trains_a_stand_in(
    path: Path, words: Path, service: Running, tmp_path: Path
) -> None:
    whole = load_recipe(path)
    policy = stand_in(whole.policy.model, words, tmp_path / "stand-in")
    evaluated = {"prompts": str(PROMPTS), "limit": 2} if whole.evaluation.prompts else {}
    recipe = load_recipe(
        path,
        {
            "output": str(tmp_path / "run"),
            "steps": 2,
            "policy.model": str(policy),
            "data.prompts": str(PROMPTS),
            "data.prompts_per_step": 2,
            "data.verifier": "kit_trainer:outcome",
            "sampling.engine": "transformers",
            "sampling.url": None,
            "sampling.weight_sync": "none",
            "sampling.rollouts_per_prompt": 4,
            "sampling.max_tokens": 24,
            "credit.url": service.url,
            "credit.ready_within": 10.0,
            "algorithm.minibatch": 4,
            **{f"evaluation.{name}": value for name, value in evaluated.items()},
        },
    )
    target = train(recipe)
    steps = records(recipe.output)
    assert [step["step"] for step in steps] == [1, 2]
    for step in steps:
        assert math.isfinite(step["loss"]) and step["uncredited"] == 0
        assert ("kl" in step) == bool(whole.algorithm.kl)
        assert step["learning_rate"] <= whole.optimiser.learning_rate
    assert sum(step["critiques"] for step in steps) > 0
    assert any(step["grad_norm"] > 0 for step in steps)
    before = AutoModelForCausalLM.from_pretrained(policy)
    after = AutoModelForCausalLM.from_pretrained(target)
    assert type(after) is type(before)
    moved = zip(before.parameters(), after.parameters(), strict=True)
    assert any(not torch.equal(one, other) for one, other in moved)
