"""Parts of bench/service.py against a scripted judge: they run, and their report can be printed."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="extra trainer")
sys.path.insert(0, str(Path(__file__).parents[2] / "bench"))

import service as bench
from engines import Bare
from running import QUICK, SIZES, Running, Source
from script_comparison import Case, by_service
from service_report import markdown, show, updated

from capo_service.engine.base import CritiqueSampling
from capo_testbed.common import Solution, held_out_tasks
from kit_scripted import ScriptedEngine
from kit_service import serving, settings

NOT_SCRIPTED = {"overhead", "prefix", "script"}  # these read vLLM's metrics, or start engines


def verdict(prompt: str, sampling: CritiqueSampling) -> str:
    return '{"incorrect_steps": []}'


class Scripted(Running):
    def __init__(self, url: str) -> None:
        super().__init__(Source(), replace(QUICK, callers=SIZES.callers))
        self.url = url

    def service(self, judge: str) -> str:
        return self.url


@pytest.fixture
def report(tmp_path: Path) -> dict[str, Any]:
    found: dict[str, Any] = {"cores": 2}
    with serving(ScriptedEngine(verdict), settings(tmp_path, prefill=False)) as url:
        run = Scripted(url.url)
        for name in bench.PARTS.keys() - NOT_SCRIPTED:
            found |= bench.PARTS[name].measure(run)
        stories = [Solution(task, "1 + 1 = 2\n\nSo it is 3.") for task in held_out_tasks(3)]
        case = Case()
        case.add(by_service(url.url, stories, {"n": 2}), stories)
    return found | {
        "engine_tokens_per_s": 1.0,
        "service_tokens_per_s": 1.0,
        "overhead_ratio": 1.0,
        "overhead_ratios": [1.0],
        "engine_arguments": {},
        "engine_limits": {},
        **found["latency_loop"],
        "script": {
            "cases": {"script, k = 4": case.report(3)},
            "equal_quality_speedups": {"4": (2.0, "exact votes"), "8": (None, "")},
            "tuned_script_speedups": {"4": (1.0, "exact votes"), "8": (None, "")},
            "loop": found["latency_loop"],
        },
    }


def test_the_parts_run_and_report_what_the_documents_quote(
    report: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert report["vote_cost"]["1"] == 1
    assert [row["callers"] for row in report["concurrency"]] == list(SIZES.callers)
    assert report["p50_ms"] <= report["p99_ms"]
    assert report["styles"].keys() == {"verdict", "brief", "full"}
    assert set(report["early_stop_token_ratio"]) == {"intersection", "majority", "union", "average"}
    show(report)
    assert "time of k = 16 / k = 1" in capsys.readouterr().out
    tables = markdown(report)
    page = "# Performance\n\n" + tables.replace("| 23 |", "| 99 |") + "\nThe end.\n"
    assert page != updated(page, report) == "# Performance\n\n" + tables + "\nThe end.\n"
    with pytest.raises(ValueError, match="there is no table that starts with"):
        updated("# Performance\n", report)


def test_the_bare_engine_says_what_it_was_given(tmp_path: Path) -> None:
    import subprocess

    answer = (
        '{"arguments": {"kv_cache_memory_bytes": 1}, "limits": {"block_size": 16}, "seeds": true}'
    )
    code = f"print('{answer}'); input(); print('{{\"seconds\": 2.0, \"tokens\": 6}}')"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        generate = Bare(process, tmp_path / "log")
        assert generate.arguments == {"kv_cache_memory_bytes": 1} and generate.seeds
        # The process prints when it has read a line.
        assert generate([], {"n": 1}) == {"seconds": 2.0, "tokens": 6}
        with pytest.raises(RuntimeError, match="the bare engine ended"):
            generate([], {"n": 1})
