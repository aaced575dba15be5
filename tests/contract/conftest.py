from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from capo_service.engine.base import CritiqueSampling
from kit_scripted import ScriptedEngine, shown_steps
from kit_service import Service, serving, settings


def second_step_wrong(prompt: str, sampling: CritiqueSampling) -> str:
    """A judge that calls every step that says WRONG wrong.

    A criterion holds at the first step that contains the word that stands in it between quotation
    marks.
    """
    import re

    found = shown_steps(prompt)
    wrong = [index for index, text in found if "WRONG" in text]
    verdict = f'{{"analysis": "as told", "incorrect_steps": {wrong}'
    asked = re.findall(r"^(C\d+) \((\w+)\): (.*)$", prompt.partition("[Criteria]")[2], re.MULTILINE)
    if not asked:
        return verdict + "}"
    answers = []
    for label, kind, criterion in asked:
        word = re.search(r'"(.+?)"', criterion)
        at = [index for index, text in found if word and word[1] in text]
        answers.append(f'"{label}": {_place(at, kind)}')
    return f'{verdict}, "criteria": {{{", ".join(answers)}}}}}'


def _place(at: list[str], kind: str) -> str:
    if not at:
        return '"no"'
    return '"whole"' if kind == "requirement" else at[0]


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder: Path = tmp_path_factory.mktemp("tokenizers")
    limits: dict[str, Any] = {
        "max_rollouts": 50, "max_body_bytes": 1 << 20, "max_characters": 60_000, "max_steps": 40,
        "max_response_tokens": 20_000,
    }  # fmt: skip
    with serving(ScriptedEngine(second_step_wrong), settings(folder, **limits)) as running:
        yield running


@pytest.fixture
def http(service: Service) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=service.url, timeout=60) as client:
        yield client
