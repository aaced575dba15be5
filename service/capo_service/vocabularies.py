"""The tokenizers that rollouts may name: loaded once, as tables of what each id decodes to."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from capo_service.core.vocabulary import TokenTable


def load_tables(
    named: Mapping[str, str], judge: str, judge_json: str | None
) -> dict[str, TokenTable]:
    """Name -> table, for the operator's tokenizers and the judge's own.

    Raises:
        ValueError: a named tokenizer cannot be loaded or aligned.
    """
    tables = {name: TokenTable.from_json(name, _read(name, place)) for name, place in named.items()}
    if judge_json is not None and judge not in tables:
        with suppress(ValueError):  # of a kind that cannot be aligned, and nobody named it
            tables[judge] = TokenTable.from_json(judge, json.loads(judge_json))
    return tables


def _read(name: str, place: str) -> Mapping[str, object]:
    path = Path(place)
    if path.is_dir() and (path / "tokenizer.json").is_file():
        path = path / "tokenizer.json"
    if path.is_file():
        content = path.read_text(encoding="utf-8")
    else:
        from transformers import AutoTokenizer

        try:
            content = AutoTokenizer.from_pretrained(place).backend_tokenizer.to_str()
        except (OSError, ValueError, AttributeError) as error:
            raise ValueError(
                f"tokenizer {name!r} cannot be loaded from {place!r}: {error}"
            ) from error
    try:
        data = json.loads(content)
    except json.JSONDecodeError as error:
        raise ValueError(f"tokenizer {name!r}: {place} is no tokenizer.json: {error}") from error
    return data if isinstance(data, dict) else {}
