"""Prompt files, and which of their questions a step learns from."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from capo_trainer.errors import PromptFileError
from capo_trainer.types import Prompt
from capo_trainer.verify import OutcomeVerifier
from capo_wire.jsonlines import read_lines


def read_prompts(path: Path, verifier: OutcomeVerifier, limit: int | None = None) -> list[Prompt]:
    """Read JSON lines with `question` and `answer` (GSM8K's own format); other fields are ignored.

    Raises:
        PromptFileError: the file cannot be read, is empty, or a line is bad; the line is named.
    """
    prompts: list[Prompt] = []
    try:
        for number, line in enumerate(read_lines(path), 1):
            if limit is not None and len(prompts) == limit:
                break
            if line.strip():
                prompts.append(_prompt(line, len(prompts), f"{path}, line {number}", verifier))
    except OSError as error:
        raise PromptFileError(f"prompt file {path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise PromptFileError(f"prompt file {path} is not {error.encoding}: {error}") from error
    if not prompts:
        raise PromptFileError(f"prompt file {path} contains no prompts")
    return prompts


def _prompt(line: str, index: int, where: str, verifier: OutcomeVerifier) -> Prompt:
    try:
        fields = json.loads(line)
    except json.JSONDecodeError as error:
        raise PromptFileError(f"{where}: not JSON: {error}") from None
    if not isinstance(fields, dict):
        raise PromptFileError(f"{where}: not a JSON object")
    for name in ("question", "answer"):
        if not isinstance(fields.get(name), str) or not fields[name].strip():
            raise PromptFileError(f"{where}: {name} must be a string that is not blank")
    if not verifier.readable(fields["answer"]):
        raise PromptFileError(
            f"{where}: the answer {fields['answer'][-80:]!r} cannot be verified; it should end in "
            "`#### 42` or \\boxed{42}, or be the plain answer"
        )
    return Prompt(index, fields["question"], fields["answer"])


def prompts_of_step(
    prompts: Sequence[Prompt], step: int, count: int, seed: int, shuffle: bool = True
) -> list[Prompt]:
    """The questions of one step (from 0): a pure function, so that a resumed run continues exactly.

    Passes over the file follow each other without a gap, each in an order of its own.
    """
    chosen = []
    for position in range(step * count, (step + 1) * count):
        epoch, rank = divmod(position, len(prompts))
        chosen.append(prompts[_order(len(prompts), epoch, seed)[rank] if shuffle else rank])
    return chosen


@lru_cache(maxsize=1)  # steps come in order, so that one pass is needed at a time
def _order(size: int, epoch: int, seed: int) -> Sequence[int]:
    order = list(range(size))
    random.Random(f"{seed} {epoch}").shuffle(order)  # noqa: S311  # an order, not a secret
    return order
