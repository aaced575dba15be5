"""Prompt files, and which of their questions a step learns from."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from capo_trainer.recipe import RecipeError
from capo_trainer.verify import Verifier
from capo_wire.jsonlines import read_lines


@dataclass(frozen=True, slots=True)
class Prompt:
    """A question; `index` is its position in the file."""

    index: int
    question: str
    answer: str


def read_prompts(path: Path, verifier: Verifier, limit: int | None = None) -> list[Prompt]:
    """Read JSON lines with `question` and `answer` (GSM8K's own format); other fields are ignored.

    Raises:
        RecipeError: the file cannot be read, is empty, or a line is bad; the line is named.
    """
    prompts: list[Prompt] = []
    try:
        for number, line in enumerate(read_lines(path), 1):
            if limit is not None and len(prompts) == limit:
                break
            if line.strip():
                prompts.append(_prompt(line, len(prompts), f"{path}, line {number}", verifier))
    except OSError as error:
        raise RecipeError(f"prompt file {path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise RecipeError(f"prompt file {path} is not {error.encoding}: {error}") from error
    if not prompts:
        raise RecipeError(f"prompt file {path} holds no prompts")
    return prompts


def _prompt(line: str, index: int, where: str, verifier: Verifier) -> Prompt:
    try:
        found = json.loads(line)
    except json.JSONDecodeError as error:
        raise RecipeError(f"{where}: not JSON: {error}") from None
    if not isinstance(found, dict):
        raise RecipeError(f"{where}: not a JSON object")
    for name in ("question", "answer"):
        if not isinstance(found.get(name), str) or not found[name].strip():
            raise RecipeError(f"{where}: {name} must be a text that is not blank")
    if not verifier.readable(found["answer"]):
        raise RecipeError(
            f"{where}: the answer {found['answer'][-80:]!r} cannot be verified; it should end in "
            "`#### 42` or \\boxed{42}, or be the plain answer"
        )
    return Prompt(index, found["question"], found["answer"])


def prompts_of_step(
    prompts: Sequence[Prompt], step: int, count: int, seed: int, shuffle: bool = True
) -> list[Prompt]:
    """The questions of one step (from 0): a pure function, so that a resumed run goes on exactly.

    Passes over the file follow each other without a gap, each in an order of its own.
    """
    chosen = []
    for position in range(step * count, (step + 1) * count):
        epoch, place = divmod(position, len(prompts))
        chosen.append(prompts[_order(len(prompts), epoch, seed)[place] if shuffle else place])
    return chosen


_orders: dict[tuple[int, int, int], list[int]] = {}


def _order(size: int, epoch: int, seed: int) -> list[int]:
    key = (size, epoch, seed)
    if key not in _orders:
        _orders.clear()  # steps come in order, so one pass is wanted at a time
        order = list(range(size))
        random.Random(f"{seed} {epoch}").shuffle(order)  # noqa: S311  # an order, not a secret
        _orders[key] = order
    return _orders[key]
