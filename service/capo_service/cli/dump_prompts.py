"""`capo prompt`: what the judge would be asked about rollouts, without a judge.

To look at a template before a GPU is paid for, and to train a judge on exactly the prompts that the
service sends.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

import capo_wire as wire
from capo_service.cli.options import StyleOption, TemplateOption
from capo_service.core.errors import InputError
from capo_service.core.prompt import PromptTemplate
from capo_service.engine.base import ChatPrompt, JudgePrompt
from capo_service.pipeline.judge_prompt import JudgePrompter
from capo_service.pipeline.judge_template import load_template
from capo_service.pipeline.prepare import CritiquePolicy, Preparer
from capo_service.settings import Settings, load
from capo_wire.assignments import parse_pairs
from capo_wire.jsonlines import is_own_output, line_id, read_lines

_TOKENS = {"response_token_ids", "tokenizer", "token_offsets"}


class PromptError(ValueError):
    """A line cannot be turned into a prompt; the message names it."""


def prompt(
    file: Annotated[Path, typer.Argument(help="Rollouts, one JSON object a line.")],
    out: Annotated[Path, typer.Option(help="Prompts, one JSON object a line.")],
    model: Annotated[
        str | None, typer.Option(help="A judge whose tokenizer encodes them; without: text only.")
    ] = None,
    template: TemplateOption = None,
    critique_style: StyleOption = None,
    setting: Annotated[
        list[str] | None, typer.Option("--set", help="Any other setting of the service.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Write what the judge would be asked about rollouts, without a judge."""
    options = {"model": model, "template": template, "critique_style": critique_style}
    overrides: dict[str, Any] = {name: v for name, v in options.items() if v is not None}
    try:
        settings = load(None, **overrides | parse_pairs(setting, "--set"))
        rendered = judge_prompts(
            file, load_template(settings.template, settings.model), settings, model
        )
        count = write(rendered, out)
    except (ValueError, OSError) as error:
        typer.secho(f"capo prompt: {error}", err=True, fg="red")
        raise typer.Exit(2) from None
    told = {"prompts": count, "out": str(out)}
    # Into standard output go the prompts alone.
    typer.echo(json.dumps(told) if as_json else f"{count} prompts in {out}", err=is_own_output(out))


def judge_prompts(
    rollouts: Path, template: PromptTemplate, settings: Settings, model: str | None
) -> Iterator[dict[str, Any]]:
    """What is asked about each line of a file of rollouts.

    Each has `id`, `messages`, `steps`, `prompt_token_ids` and `opening`.

    `messages` are the chat turns as text; `steps` the character spans. `prompt_token_ids` (with a
    model, else null) are exactly what the engine gets: untrusted text encoded apart, and at the end
    `opening`, with which each critique begins.

    Raises:
        PromptError: a line is not a rollout, or cannot be judged.
        ValueError: the model's tokenizer cannot be loaded.
    """
    encoding = _Encoding(model, settings.chat_template_kwargs)
    prompter = JudgePrompter(encoding, None, template, _secret(settings), settings.prefill)
    preparer = Preparer(prompter, {}, CritiquePolicy.of(settings))
    options = wire.CreditOptions(reward=wire.Reward(scheme="process_only"))
    for number, line in enumerate(_lines(rollouts), 1):
        if not line.strip():
            continue
        try:
            rollout = _rollout(json.loads(line))
            prepared = preparer.prepare(rollout, options)
        except (ValueError, InputError) as error:  # not JSON, not a rollout, not judgeable
            raise PromptError(f"{rollouts}, line {number}: {error}") from error
        yield {
            "id": rollout.id if rollout.id is not None else line_id(number),
            "messages": encoding.messages,
            "steps": prepared.spans,
            "prompt_token_ids": encoding.ids,
            "opening": prepared.task.prompt.opening if prepared.task else "",
        }


def _lines(path: Path) -> Iterator[str]:
    try:
        yield from read_lines(path)
    except UnicodeDecodeError as error:
        raise PromptError(f"{path} cannot be read: {error}") from error


def write(prompts: Iterator[dict[str, Any]], out: Path) -> int:
    """Write prompts as JSON lines, in a folder that need not be there; how many there were."""
    count = 0
    out.parent.mkdir(parents=True, exist_ok=True)
    with out.open("w", encoding="utf-8") as file:
        for prompt in prompts:
            file.write(json.dumps(prompt, ensure_ascii=False) + "\n")
            count += 1
    return count


class _Encoding:
    """Encodes for a model, or not at all without one; keeps the last prompt as chat turns."""

    def __init__(self, model: str | None, template_kwargs: Mapping[str, Any]) -> None:
        self.messages: list[dict[str, str]] = []
        self.ids: list[int] | None = None
        self._encoder = None
        if model is not None:
            from capo_service.engine.local_models import local_model
            from capo_service.engine.prompt_encoder import PromptEncoder

            self._encoder = PromptEncoder(local_model(model)[0], template_kwargs)

    def __call__(self, prompt: JudgePrompt) -> ChatPrompt:
        self.messages = [
            {"role": role, "content": "".join(text for text, _ in segments)}
            for role, segments in (("system", prompt.system), ("user", prompt.user))
        ]
        self.ids = self._encoder.encode(prompt) if self._encoder else None
        tokens = len(self.ids) if self.ids else None
        return ChatPrompt(self.messages, prompt.opening if self.ids else "", tokens=tokens)


def _rollout(line: Any) -> wire.Rollout:
    """The rollout without its tokens: a prompt needs the text alone, and so no tokenizer."""
    if not isinstance(line, dict):
        raise ValueError("not a JSON object")
    wanted = wire.Rollout.model_fields.keys() - _TOKENS
    return wire.Rollout.model_validate({k: v for k, v in line.items() if k in wanted})


def _secret(settings: Settings) -> bytes:
    given = settings.nonce_secret
    return given.get_secret_value().encode() if given else secrets.token_bytes(32)
