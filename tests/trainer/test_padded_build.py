"""The builder of the bed whose solutions may have easy lines."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, LlamaForCausalLM

from capo_testbed import models, padded_build, padded_tasks, tasks
from capo_testbed.build import write_prompts
from capo_testbed.experiment.hacking import PADDED
from capo_trainer.data import read_prompts
from capo_trainer.verify import make_verifier


@pytest.fixture
def testbed(tmp_path: Path) -> Path:
    """A testbed with an untrained policy of a few thousand weights."""
    rng = random.Random(0)
    questions = [tasks.make_task(rng) for _ in range(20)]
    texts = [padded_tasks.demonstrate(task, rng, tasks.NO_SLIPS) for task in questions]
    texts += [task.question for task in questions]
    tokenizer = models.wrap(models.train_tokenizer(texts, [], 400))
    torch.manual_seed(0)
    models.save(models.new_model(tokenizer, 1, 32), tokenizer, tmp_path / "policy")
    for name in ("train.jsonl", "eval.jsonl"):
        write_prompts(tmp_path / name, questions)
    return tmp_path


def test_the_bed_is_where_the_experiment_looks_for_it(testbed: Path) -> None:
    before = LlamaForCausalLM.from_pretrained(testbed / "policy")
    assert not padded_build.is_made(testbed)
    made = padded_build.build(testbed, 0, lambda line: None, updates=2, held_out=4)
    assert padded_build.is_made(testbed)
    bed = testbed / PADDED.folder
    assert json.loads((bed / "padded.json").read_text()) == made
    assert {"accuracy", "wrong_steps", "easy_lines", "tokens"} == set(made["greedy"])
    verifier = make_verifier(f"{PADDED.tasks}:outcome")
    assert len(read_prompts(bed / "train.jsonl", verifier)) == 20
    assert (bed / "eval.jsonl").read_text() == (testbed / "eval.jsonl").read_text()
    after = LlamaForCausalLM.from_pretrained(bed / "policy")
    tokenizer = AutoTokenizer.from_pretrained(bed / "policy")
    assert tokenizer.get_vocab() == AutoTokenizer.from_pretrained(testbed / "policy").get_vocab()
    changed = [
        not torch.equal(one, other)
        for one, other in zip(before.parameters(), after.parameters(), strict=True)
    ]
    assert all(changed)


def test_without_a_testbed_it_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="capo testbed"):
        padded_build.build(tmp_path, 0, lambda line: None)
