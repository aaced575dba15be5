"""Settings that the options of `capo serve` override, where several options make one setting."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from capo_service.cli import vllm_options
from capo_service.observability import logs
from capo_service.settings import Settings, load
from capo_wire.assignments import parse_pairs


def name_model(overrides: dict[str, Any], *names: str | None) -> None:
    """Set the model to the one that MODEL and --model name.

    Raises:
        ValueError: they name different ones.
    """
    given = sorted({name for name in names if name is not None})
    if len(given) > 1:
        raise ValueError(f"two models are given, {' and '.join(given)}: name one")
    if given:
        overrides.setdefault("model", given[0])


def add_tokenizers(overrides: dict[str, Any], pairs: Iterable[str] | None) -> None:
    """Add the tokenizers that --tokenizer names, as NAME=PATH.

    Raises:
        ValueError: one is not of this form.
    """
    found = {}
    for pair in pairs or ():
        name, equals, path = (part.strip() for part in pair.partition("="))
        if not (name and equals and path):
            raise ValueError(
                f"--tokenizer {pair}: write NAME=PATH, with the name that rollouts have in "
                "`tokenizer`. The judge's own: --engine-arg tokenizer=PATH (engine vllm), --set "
                "tokenizer=PATH (engine openai)"
            )
        found[name] = path
    _merge(overrides, "tokenizers", found)


def add_engine_args(
    overrides: dict[str, Any], config: Path | None, words: Sequence[str], pairs: list[str] | None
) -> Settings:
    """Add vLLM's arguments, and load the settings.

    Args:
        overrides: the other settings of the command line.
        config: TOML file with settings.
        words: vLLM's own options; MODEL may stand among them.
        pairs: of --engine-arg, which win.

    Raises:
        ValueError: an option or a setting is not known, or has a value that cannot be used.
    """
    settings = load(config, **overrides)
    if words:
        _merge(overrides, "engine_args", _for_vllm(settings, words, overrides))
    _merge(overrides, "engine_args", parse_pairs(pairs, "--engine-arg"))
    return load(config, **overrides)


def _for_vllm(
    settings: Settings, words: Sequence[str], overrides: dict[str, Any]
) -> dict[str, Any]:
    if settings.engine != "vllm":
        raise ValueError(
            f"no such option: {words[0]}. If it is one of vLLM's: the engine is {settings.engine}, "
            "which takes none"
        )
    logs.set_up(settings)  # vLLM takes its log's format when it is imported
    model, arguments = vllm_options.parse(words)
    name_model(overrides, overrides.get("model"), model)
    return arguments


def _merge(overrides: dict[str, Any], name: str, values: Mapping[str, Any]) -> None:
    """Add to a setting that is a table."""
    before = overrides.get(name, {})
    if values and isinstance(before, dict):
        overrides[name] = {**before, **values}
