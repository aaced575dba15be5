"""`capo eval` as a process, before a service: figures, pictures, resuming, Ctrl-C."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

from capo_service.engine.base import CritiqueSampling
from capo_service.pipeline.critics import SymbolicCritic
from kit_scripted import ScriptedEngine, shown_steps
from kit_service import serving, settings, wait_for_lines


def finds_x(prompt: str, sampling: CritiqueSampling) -> str:
    return json.dumps(
        {
            "analysis": "x",
            "incorrect_steps": [i for i, text in shown_steps(prompt) if "X" in text],
        }
    )


def data(folder: Path, count: int = 12) -> Path:
    """Solutions of which every third has an error that the judge sees, every other one that it does not."""
    path = folder / "data.jsonl"
    steps = [["a", "b X", "c"], ["a", "b", "c"], ["a", "b", "c"]]
    entries = [
        {"question": f"q{i}", "steps": steps[i % 3], "wrong_steps": [1] if i % 3 < 2 else []}
        for i in range(count)
    ]
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    return path


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "capo_client", "eval", *map(str, arguments)]


def capo_eval(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments), capture_output=True, text=True, check=False, timeout=120
    )


def test_the_judge_is_measured_and_judged_only_once(tmp_path: Path) -> None:
    path = data(tmp_path)
    engine = ScriptedEngine(finds_x)
    with serving(engine, settings(tmp_path)) as service:
        done = capo_eval(path, "--url", service.url, "--n", "4", "--resamples", "50", "--json")
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout)
        assert found["format"] == "capo" and found["erroneous"] == 8 and found["unjudged"] == 0
        [line] = [line for line in found["table"] if (line["method"], line["k"]) == ("majority", 4)]
        assert (line["error_accuracy"], line["correct_accuracy"]) == (0.5, 1.0)
        assert (line["precision"], line["recall"]) == (1.0, 0.5)
        pictures = sorted(each.name for each in (tmp_path / "data.jsonl.eval").glob("*.png"))
        assert pictures == ["calibration.png", "f1.png", "f1_by_tokens.png", "precision_recall.png"]
        asked = len(engine.prompts)
        again = capo_eval(path, "--url", service.url, "--n", "4", "--no-plots", "--resamples", "50")
        assert again.returncode == 0 and len(engine.prompts) == asked
        assert "majority\t4\t0.500 [" in again.stdout and "seconds: -" in again.stdout
        other = capo_eval(path, "--url", service.url, "--n", "8", "--no-plots")
        assert (
            other.returncode == 2 and "results of another input or of other options" in other.stderr
        )


def test_what_cannot_be_done_is_said(tmp_path: Path) -> None:
    gone = capo_eval(data(tmp_path), "--url", "http://127.0.0.1:9")
    assert gone.returncode == 3 and "run the same command again" in gone.stderr
    absent = capo_eval(tmp_path / "nothing.jsonl")
    assert absent.returncode == 2 and "cannot be read" in absent.stderr


def test_ctrl_c_keeps_what_was_judged(tmp_path: Path) -> None:
    path = data(tmp_path, 60)
    engine = ScriptedEngine(finds_x, delay=0.2)
    with serving(engine, settings(tmp_path, max_running=2)) as service:
        job = subprocess.Popen(
            command(path, "--url", service.url, "--n", "2", "--no-plots"),
            stderr=subprocess.PIPE,
            text=True,
        )
        out = tmp_path / "data.jsonl.eval" / "sampled.jsonl"
        wait_for_lines(out, 4, job)
        job.send_signal(signal.SIGINT)
        said = job.communicate(timeout=30)[1]
        assert job.returncode == 130 and "run the same command again to resume" in said
        assert "Traceback" not in said
        kept = len(out.read_text().splitlines())
        engine.delay = 0.0
        before = len(engine.prompts)
        done = capo_eval(path, "--url", service.url, "--n", "2", "--no-plots", "--resamples", "20")
        assert done.returncode == 0, done.stderr
        assert len(engine.prompts) - before == 2 * (60 - kept) + 60


def test_the_judge_without_a_model(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    steps = ["2 + 2 = 4.", "4 * 3 = 13."]
    path.write_text(json.dumps({"problem": "q", "steps": steps, "label": 1}))
    with serving(SymbolicCritic(), settings(tmp_path)) as service:
        found = json.loads(capo_eval(path, "--url", service.url, "--json", "--no-plots").stdout)
    assert found["judge"] == "symbolic" and found["table"][0]["recall"] == 1.0
