"""The tokenizers that rollouts may name: loaded once."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from functools import cached_property
from pathlib import Path

from tokenizers import Tokenizer

from capo_service.core.vocabulary import TokenTable


class Vocabulary:
    """One tokenizer: the text of its ids, and the ids of a text.

    Raises:
        ValueError: it cannot be aligned.
    """

    def __init__(self, name: str, source: str) -> None:
        data = json.loads(source)
        self.table = TokenTable.from_json(name, data if isinstance(data, dict) else {})
        self._source = source

    def encode(self, text: str) -> list[int]:
        """The ids of a text, without special tokens. Safe in any thread."""
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids)

    @cached_property
    def _tokenizer(self) -> Tokenizer:
        return Tokenizer.from_str(self._source)


def load_vocabularies(
    named: Mapping[str, str], judge: str, judge_json: str | None
) -> dict[str, Vocabulary]:
    """Name -> vocabulary, for the operator's tokenizers and the judge's own.

    Raises:
        ValueError: a named tokenizer cannot be loaded or aligned.
    """
    vocabularies = {name: Vocabulary(name, _read(name, place)) for name, place in named.items()}
    if judge_json is not None and judge not in vocabularies:
        with suppress(ValueError):  # it cannot be aligned, and no setting names it
            vocabularies[judge] = Vocabulary(judge, judge_json)
    return vocabularies


def _read(name: str, place: str) -> str:
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
        json.loads(content)
    except json.JSONDecodeError as error:
        raise ValueError(f"tokenizer {name!r}: {place} is no tokenizer.json: {error}") from error
    return str(content)
