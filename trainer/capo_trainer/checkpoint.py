"""Checkpoints that a killed run resumes from exactly, and the policy as a folder of its own.

A checkpoint holds weights, optimiser, schedule and random states; which questions come next, and
every rollout's random stream, follow from the step's number. It is written under another name and
then renamed, so that no checkpoint is ever incomplete.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from capo_trainer.errors import RecipeError
from capo_trainer.recipe import Recipe

_STATE = "trainer.json"
# Settings that may change when a run is resumed.
_FREE = {"output", "checkpoints", "logging", "evaluation"}


def save(accelerator: Accelerator, recipe: Recipe, step: int) -> None:
    """Write the checkpoint after `step` steps; older ones beyond `checkpoints.keep` are deleted."""
    folder = recipe.output / "checkpoints"
    part = folder / f".part-{step}"
    if accelerator.is_main_process:
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
    accelerator.wait_for_everyone()
    accelerator.save_state(str(part))
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        state = {"step": step, "recipe": _mark(recipe), "processes": accelerator.num_processes}
        (part / _STATE).write_text(json.dumps(state))
        target = folder / f"step-{step:06d}"
        shutil.rmtree(target, ignore_errors=True)
        part.rename(target)
        for old in completed(recipe)[: -recipe.checkpoints.keep]:
            shutil.rmtree(old)
    accelerator.wait_for_everyone()


def completed(recipe: Recipe) -> list[Path]:
    """The checkpoints of a run, oldest first."""
    return sorted((recipe.output / "checkpoints").glob("step-*"))


def load(accelerator: Accelerator, recipe: Recipe) -> int:
    """Load the newest checkpoint. Returns the number of steps before it, 0 without a checkpoint.

    Raises:
        RecipeError: the checkpoint belongs to a different recipe.
    """
    checkpoints = completed(recipe)
    if not checkpoints:
        return 0
    newest = checkpoints[-1]
    state = json.loads((newest / _STATE).read_text())
    if state["recipe"] != _mark(recipe):
        raise RecipeError(
            f"{recipe.output} holds the run of a different recipe (checkpoint {newest.name}): "
            "name another output, delete that folder, or use the recipe it was started with"
        )
    accelerator.load_state(str(newest))
    return int(state["step"])


@contextmanager
def whole_model(accelerator: Accelerator, model: nn.Module) -> Iterator[PreTrainedModel]:
    """The policy with all its weights in this process, for sampling."""
    if accelerator.distributed_type == DistributedType.FSDP:
        from torch.distributed.fsdp import FullyShardedDataParallel

        if isinstance(model, FullyShardedDataParallel):
            with FullyShardedDataParallel.summon_full_params(model, writeback=False):
                yield accelerator.unwrap_model(model)
            return
    yield accelerator.unwrap_model(model)


def export(
    accelerator: Accelerator, model: nn.Module, tokenizer: PreTrainedTokenizerBase, folder: Path
) -> None:
    """Write the policy so that transformers and vLLM load it."""
    state = accelerator.get_state_dict(model)
    if accelerator.is_main_process:
        whole = accelerator.unwrap_model(model)
        whole.save_pretrained(folder, state_dict=state, is_main_process=True)
        tokenizer.save_pretrained(folder)
    accelerator.wait_for_everyone()


def _mark(recipe: Recipe) -> str:
    """Hash of everything in a recipe that decides the course of a run."""
    deciding = recipe.model_dump(mode="json", exclude=_FREE)
    for name in ("url", "deadline", "ready_within", "allow_other_version"):
        deciding["credit"].pop(name)
    return hashlib.sha256(json.dumps(deciding, sort_keys=True).encode()).hexdigest()
