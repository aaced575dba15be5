"""`capo prompt`: what the judge would be asked about rollouts, without a judge.

To look at a template before a GPU is paid for, and to train a judge on exactly the prompts that the
service sends.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from capo_client import wire
from capo_service.core.errors import InputError
from capo_service.core.prompt import PromptTemplate
from capo_service.engine.base import EncodedPrompt, Prompt
from capo_service.prepare import Preparer
from capo_service.settings import Settings


_TOKENS = {"response_token_ids", "tokenizer", "token_offsets"}


class PromptError(ValueError):
    """A line cannot be turned into a prompt; the message names it."""


def judge_prompts(
    rollouts: Path, template: PromptTemplate, settings: Settings, model: str | None
) -> Iterator[dict[str, Any]]:
    """For each line of a file of rollouts: `id`, `messages`, `steps`, `prompt_token_ids`.

    `messages` are the chat turns as text; `steps` the character spans. `prompt_token_ids` (with a
    model, else null) are exactly what the engine gets: untrusted text encoded apart.

    Raises:
        PromptError: a line is not a rollout, or cannot be judged.
        ValueError: the model's tokenizer cannot be loaded.
    """
    preparer = Preparer(
        _encoding(model, settings.chat_template_kwargs), None, template, {},
        _secret(settings), settings.policy(),
    )  # fmt: skip
    options = wire.CreditOptions(reward=wire.Reward(scheme="process_only"))
    with rollouts.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                rollout = _rollout(json.loads(line))
                prepared = preparer.prepare(rollout, options)
            except (ValueError, InputError) as error:  # not JSON, not a rollout, not judgeable
                raise PromptError(f"{rollouts}, line {number}: {error}") from error
            messages, ids = prepared.prompt.payload
            yield {
                "id": rollout.id if rollout.id is not None else str(number - 1),
                "messages": messages,
                "steps": prepared.spans,
                "prompt_token_ids": ids,
            }


def write(prompts: Iterator[dict[str, Any]], out: Path) -> int:
    """Write prompts as JSON lines; how many there were."""
    count = 0
    with out.open("w", encoding="utf-8") as file:
        for prompt in prompts:
            file.write(json.dumps(prompt, ensure_ascii=False) + "\n")
            count += 1
    return count


def _encoding(model: str | None, template_kwargs: Any) -> Callable[[Prompt], EncodedPrompt]:
    encoder = None
    if model is not None:
        from capo_service.engine.chat import PromptEncoder
        from capo_service.engine.vllm import local_model

        encoder = PromptEncoder(local_model(model)[0], template_kwargs)

    def encode(prompt: Prompt) -> EncodedPrompt:
        messages = [
            {"role": role, "content": "".join(text for text, _ in segments)}
            for role, segments in (("system", prompt.system), ("user", prompt.user))
        ]
        ids = encoder.encode(prompt) if encoder else None
        return EncodedPrompt((messages, ids), None if ids is None else len(ids))

    return encode


def _rollout(line: Any) -> wire.Rollout:
    """The rollout without its tokens: a prompt needs the text alone, and so no tokenizer."""
    if not isinstance(line, dict):
        raise ValueError("not a JSON object")
    wanted = wire.Rollout.model_fields.keys() - _TOKENS
    return wire.Rollout.model_validate({k: v for k, v in line.items() if k in wanted})


def _secret(settings: Settings) -> bytes:
    given = settings.nonce_secret
    return given.get_secret_value().encode() if given else secrets.token_bytes(32)
