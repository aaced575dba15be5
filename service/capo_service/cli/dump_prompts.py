"""`capo prompt`: the judge's prompts for rollouts, rendered without running a judge.

For checking a template without a GPU, and for training a judge on the service's exact prompts.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

import capo_wire as wire
from capo_service.cli.options import ProfileOption, StyleOption, TemplateOption
from capo_service.core.errors import InputError
from capo_service.engine import embedded
from capo_service.engine.base import ChatPrompt, JudgePrompt
from capo_service.judges.profile import JudgeProfile
from capo_service.pipeline.judge_profile import judge_profile
from capo_service.pipeline.judge_prompt import JudgePrompter
from capo_service.pipeline.prepare import CritiquePolicy, Preparer
from capo_service.settings import Settings, load
from capo_wire.assignments import parse_pairs
from capo_wire.jsonlines import is_own_output, line_id, read_lines

_IDS = {"response_token_ids", "tokenizer"}
_POSITIONS = {"token_offsets", "token_lengths"}


class PromptError(ValueError):
    """A line cannot become a prompt; the message has its number."""


def prompt(
    file: Annotated[Path, typer.Argument(help="Rollouts: JSON Lines.")],
    out: Annotated[Path, typer.Option(help="File to write the prompts to: JSON Lines.")],
    model: Annotated[
        str | None,
        typer.Option(help="Judge whose tokenizer encodes the prompts. Default: text only."),
    ] = None,
    profile: ProfileOption = None,
    template: TemplateOption = None,
    critique_style: StyleOption = None,
    setting: Annotated[
        list[str] | None,
        typer.Option(
            "--set", help="Any other setting of the service, such as max_steps=1000; repeatable."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> None:
    """Write the judge's prompts for rollouts to a file, without running a judge."""
    options = {
        "model": model,
        "profile": profile,
        "template": template,
        "critique_style": critique_style,
    }
    overrides: dict[str, Any] = {name: v for name, v in options.items() if v is not None}
    try:
        overrides |= parse_pairs(setting, "--set")
        settings = load(None, **overrides)
        if "model" not in settings.model_fields_set:
            # The built-in template, style and form, and not those of the default judge `demo`.
            settings = load(None, **overrides | {"model": embedded.NAME})
        rendered = judge_prompts(file, judge_profile(settings), settings, model)
        count = write(rendered, out)
    except (ValueError, OSError) as error:
        typer.secho(f"capo prompt: {error}", err=True, fg="red")
        raise typer.Exit(2) from None
    summary = {"prompts": count, "out": str(out)}
    # With --out /dev/stdout, standard output has only prompts.
    typer.echo(
        json.dumps(summary) if as_json else f"{count} prompts in {out}", err=is_own_output(out)
    )


def judge_prompts(
    rollouts: Path, profile: JudgeProfile, settings: Settings, model: str | None
) -> Iterator[dict[str, Any]]:
    """The prompt for each line of a file of rollouts.

    Args:
        rollouts: JSON Lines.
        profile: the judge's profile.
        settings: the service's settings.
        model: the judge whose tokenizer encodes the prompts; None: they are not encoded.

    Yields:
        `id`; `messages`, the chat turns as text; `steps`, the character span of each;
        `prompt_token_ids`, exactly as the engine gets them, or None without a model; `opening`, the
        start of the critique, with which the ids end.

    Raises:
        PromptError: a line is not a rollout, or cannot be judged.
        ValueError: the model's tokenizer cannot be loaded.
    """
    encoding = _Encoding(model, settings)
    prompter = JudgePrompter(
        encoding, None, profile, "structural_tag", _secret(settings), settings.prefill
    )
    policy = replace(CritiquePolicy.of(settings, profile), windows=False)  # one prompt a line
    preparer = Preparer(prompter, {}, policy)
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
    """Write prompts as JSON Lines, creating the folder if needed; how many."""
    count = 0
    out.parent.mkdir(parents=True, exist_ok=True)
    with out.open("w", encoding="utf-8") as file:
        for prompt in prompts:
            file.write(json.dumps(prompt, ensure_ascii=False) + "\n")
            count += 1
    return count


class _Encoding:
    """Encodes prompts, if there is a model, and keeps the last one as chat turns."""

    def __init__(self, model: str | None, settings: Settings) -> None:
        self.messages: list[dict[str, str]] = []
        self.ids: list[int] | None = None
        self._encoder = None
        if model is not None:
            from capo_service.engine.local_models import local_model
            from capo_service.engine.prompt_encoder import PromptEncoder

            self._encoder = PromptEncoder(
                local_model(model)[0], settings.chat_template_kwargs, settings.thinking_markers
            )

    def __call__(self, prompt: JudgePrompt) -> ChatPrompt:
        self.messages = [
            {"role": role, "content": "".join(text for text, _ in segments)}
            for role, segments in (("system", prompt.system), ("user", prompt.user))
        ]
        self.ids = self._encoder.encode(prompt).ids if self._encoder else None
        tokens = len(self.ids) if self.ids else None
        return ChatPrompt(self.messages, prompt.opening if self.ids else "", tokens=tokens)


def _rollout(line: Any) -> wire.Rollout:
    """The rollout without its ids: a prompt is made of text only, so no tokenizer is needed.

    Positions of tokens are needed only for what a mask says.
    """
    if not isinstance(line, dict):
        raise ValueError("not a JSON object")
    wanted = wire.Rollout.model_fields.keys() - _IDS
    if line.get("response_mask") is None:
        wanted -= _POSITIONS
    elif not any(line.get(name) for name in _POSITIONS):
        raise ValueError("response_mask needs token_offsets here: ids alone cannot be decoded")
    return wire.Rollout.model_validate({k: v for k, v in line.items() if k in wanted})


def _secret(settings: Settings) -> bytes:
    given = settings.nonce_secret
    return given.get_secret_value().encode() if given else secrets.token_bytes(32)
