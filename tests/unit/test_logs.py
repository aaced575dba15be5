"""vLLM's log, which appears in the service's format while the engine loads."""

from __future__ import annotations

import json
import logging
import logging.config
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from capo_service.engine.vllm_log import StartUpFilter, TextFormatter
from capo_service.observability import logs
from capo_service.settings import Settings


@pytest.fixture(autouse=True)
def _logging_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    root, vllm = logging.getLogger(), logging.getLogger("vllm")
    before = (root.handlers[:], root.level, vllm.handlers[:], vllm.level, vllm.propagate)
    for name in [name for name in os.environ if name.startswith("VLLM_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("VLLM_LOGGING_CONFIG_PATH", "")  # so that it is removed at the end
    monkeypatch.delenv("VLLM_LOGGING_CONFIG_PATH")
    monkeypatch.setattr(logs, "_vllm_folder", None)
    monkeypatch.setattr(StartUpFilter, "loading", True)
    yield
    root.handlers[:], root.level, vllm.handlers[:], vllm.level, vllm.propagate = before


def configured(**given: Any) -> dict[str, Any]:
    logs.set_up(Settings(**given))
    path = Path(os.environ["VLLM_LOGGING_CONFIG_PATH"])
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def logged(capsys: pytest.CaptureFixture[str], *messages: object) -> list[str]:
    """What vLLM's processes write with that configuration."""
    path = Path(os.environ["VLLM_LOGGING_CONFIG_PATH"])
    logging.config.dictConfig(json.loads(path.read_text()))
    capsys.readouterr()
    for message in messages:
        logging.getLogger("vllm.v1.core").info(message)
    return capsys.readouterr().err.splitlines()


def test_vllm_logs_in_our_format_while_it_loads(capsys: pytest.CaptureFixture[str]) -> None:
    configured(model="Q/7B")
    [line] = logged(capsys, "GPU KV cache size: 9 tokens,\n  twice")
    assert line.endswith(" INFO    vLLM: GPU KV cache size: 9 tokens, twice")
    StartUpFilter.loading = False
    assert logged(capsys, "one of many requests") == []
    logging.getLogger("vllm").warning("slow")
    assert capsys.readouterr().err.endswith(" WARNING vLLM: slow\n")
    StartUpFilter.loading = True
    assert logged(capsys, "[shutdown] done") == [], "in a process that knows no end of its start"


def test_vllm_logs_json_where_we_do(capsys: pytest.CaptureFixture[str]) -> None:
    configured(model="Q/7B", log_format="json")
    [line] = logged(capsys, "Loading weights took 2 s")
    record = json.loads(line)
    assert record["message"] == "Loading weights took 2 s"
    assert (record["level"], record["logger"]) == ("INFO", "vllm.v1.core")


@pytest.mark.parametrize(
    ("given", "level"),
    [
        ({"model": "Q/7B"}, "INFO"),
        ({"model": "Q/7B", "log_level": "debug"}, "INFO"),
        ({"model": "Q/7B", "log_level": "error"}, "ERROR"),
        ({"model": "embedded"}, "ERROR"),
        ({"model": "embedded", "log_level": "debug"}, "INFO"),
        ({}, "ERROR"),
    ],
)
def test_the_level_is_ours_and_built_in_judges_are_quiet(given: dict[str, Any], level: str) -> None:
    assert configured(**given)["loggers"]["vllm"]["level"] == level
    assert logging.getLogger("vllm").level == getattr(logging, level), "before vLLM is imported"


@pytest.mark.parametrize("name", ["VLLM_LOGGING_LEVEL", "VLLM_CONFIGURE_LOGGING"])
def test_what_the_user_set_of_vllms_log_stays(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "1")
    logs.set_up(Settings())
    assert "VLLM_LOGGING_CONFIG_PATH" not in os.environ


def test_a_second_set_up_writes_the_same_file_again() -> None:
    """`capo serve` sets up logging before it asks vLLM for its options, and when it serves."""
    configured(model="embedded")
    path = os.environ["VLLM_LOGGING_CONFIG_PATH"]
    assert configured(model="Q/7B")["loggers"]["vllm"]["level"] == "INFO"
    assert os.environ["VLLM_LOGGING_CONFIG_PATH"] == path


def test_other_machines_get_no_file_that_they_do_not_have(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_LOGGING_STREAM", "")
    monkeypatch.delenv("VLLM_LOGGING_STREAM")
    logs.set_up(Settings(model="Q/7B", engine_args={"distributed_executor_backend": "ray"}))
    assert "VLLM_LOGGING_CONFIG_PATH" not in os.environ
    assert os.environ["VLLM_LOGGING_STREAM"] == "ext://sys.stderr"


def test_a_service_starts_where_no_file_can_be_written(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    logs.set_up(Settings(model="Q/7B"))
    assert "VLLM_LOGGING_CONFIG_PATH" not in os.environ
    assert "vLLM logs in its own format" in capsys.readouterr().err


def test_lines_name_the_process_and_have_an_end() -> None:
    record = logging.LogRecord("vllm", logging.INFO, "", 1, "x" * 2000, None, None)
    record.vllm_process_name = "EngineCore"
    line = TextFormatter().format(record)
    assert " vLLM EngineCore: xxx" in line and line.endswith("x...") and len(line) < 600
