"""What `GET /info` tells judges apart by."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from capo_service.engine.local_models import weights_digest
from capo_service.pipeline.judge_digest import fingerprint, judge_digest
from capo_service.settings import Settings
from kit_scripted import ScriptedEngine


def digest(model: str = "scripted", template: str = "t", **given: Any) -> str:
    engine = ScriptedEngine()
    engine.model = model
    weights_digest.cache_clear()  # a service is started
    return judge_digest(Settings(**given), engine, template)


@pytest.mark.parametrize(
    "other",
    [
        {"model": "another"},
        {"template": "another"},
        {"critique_style": "full"},
        {"critique_format": "tag"},
        {"prefill": True},
        {"symbolic_votes": 4},
        {"suspicion": {"padding": "wrong"}},
        {"chat_template_kwargs": {"enable_thinking": True}},
        {"engine_args": {"revision": "main"}},
    ],
)
def test_what_changes_the_judgement_changes_the_digest(other: dict[str, Any]) -> None:
    assert digest(**other) != digest()


@pytest.mark.parametrize(
    "other",
    [
        {"engine_args": {"tensor_parallel_size": 4, "gpu_memory_utilization": 0.5}},
        {"max_running": 3, "port": 9, "tokenizers": {"policy": "x"}, "log_level": "debug"},
    ],
)
def test_what_changes_speed_or_limits_does_not(other: dict[str, Any]) -> None:
    assert digest(**other) == digest()


def test_a_judge_that_is_trained_further_in_its_folder_is_another(tmp_path: Path) -> None:
    folder = tmp_path / "judge"
    folder.mkdir()
    weights = bytearray(range(256)) * 8192  # 2 MiB
    (folder / "model.safetensors").write_bytes(weights)
    (folder / "config.json").write_text("{}")
    before, text = digest(str(folder)), fingerprint(Settings(), ScriptedEngine(), "t", "grammar")
    assert digest(str(folder)) == before
    copied = shutil.copytree(folder, tmp_path / "copy" / "judge")
    weights_digest.cache_clear()
    assert weights_digest(str(copied)) == weights_digest(str(folder))
    weights[1_000_000:1_100_000] = bytes(100_000)
    (folder / "model.safetensors").write_bytes(weights)
    assert digest(str(folder)) != before
    engine = ScriptedEngine()
    engine.model = str(folder)
    assert fingerprint(Settings(), engine, "t", "grammar") != text


def test_a_judge_that_is_no_folder_is_known_by_its_name() -> None:
    weights_digest.cache_clear()
    assert weights_digest("Qwen/Qwen2.5-72B-Instruct") is None
