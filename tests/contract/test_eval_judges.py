"""`capo eval` with several judges, settings and odd files: whose figures a report has, and of what."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from kit_scripted import ScriptedEngine
from kit_service import Service, serving, settings

STEPS = ["2+2=4.", "So 5."]


def capo_eval(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [
            sys.executable,
            "-m",
            "capo_client",
            "eval",
            *map(str, arguments),
            "--resamples",
            "20",
            "--no-plots",
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def report(*arguments: object) -> dict[str, Any]:
    done = capo_eval(*arguments, "--json")
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def verdict(*steps: int) -> ScriptedEngine:
    return ScriptedEngine(
        lambda prompt, sampling: json.dumps({"analysis": "x", "incorrect_steps": list(steps)})
    )


def data(folder: Path, *more: object, count: int = 4) -> Path:
    path = folder / "data.jsonl"
    good = {"question": "q", "steps": STEPS, "wrong_steps": [1]}
    texts = [json.dumps(good | {"question": f"q{n}"}) for n in range(count)]
    texts += [each if isinstance(each, str) else json.dumps(each) for each in more]
    path.write_text("".join(f"{text}\n" for text in texts))
    return path


def accuracies(found: dict[str, Any]) -> list[float]:
    return [line["error_accuracy"] for line in found["table"]]


def test_a_second_judge_never_gets_the_first_ones_figures(tmp_path: Path) -> None:
    """It is asked in a folder of its own, and the first one's folder still is the first one's."""
    path = data(tmp_path)
    finds, blind = verdict(1), verdict()
    with (
        serving(finds, settings(tmp_path)) as first,
        serving(blind, settings(tmp_path, critique_style="full")) as second,
    ):
        found = report(path, "--url", first.url, "--n", "2")
        assert set(accuracies(found)) == {1.0}
        saved = (tmp_path / "data.jsonl.eval" / "report.json").read_text()
        refused = capo_eval(path, "--url", second.url, "--n", "2")
        assert refused.returncode == 2 and "\n" not in refused.stderr.strip()
        assert "contains results of the judge 'scripted scripted brief json" in refused.stderr
        assert "the service now has 'scripted scripted full json" in refused.stderr
        assert "--out" in refused.stderr and blind.prompts == []
        assert (tmp_path / "data.jsonl.eval" / "report.json").read_text() == saved
        other = report(path, "--url", second.url, "--n", "2", "--out", tmp_path / "second")
        assert set(accuracies(other)) == {0.0} and len(blind.prompts) == 4 * 3
        asked = len(finds.prompts)
        assert report(path, "--url", first.url, "--n", "2")["table"] == found["table"]
        assert len(finds.prompts) == asked
    assert found["judge_digest"] != other["judge_digest"]


def test_the_report_names_judge_style_format_template_and_sampling(tmp_path: Path) -> None:
    path = data(tmp_path)
    engine = verdict(1)
    with serving(engine, settings(tmp_path)) as service:
        told = {
            style: report(
                path,
                "--url",
                service.url,
                "--n",
                "2",
                "--out",
                tmp_path / style,
                "--set",
                f"critique_style={style}",
                "--set",
                "top_p=0.5",
                "--set",
                "max-tokens=300",
            )
            for style in ("verdict", "brief", "full")
        }
        again = capo_eval(
            path,
            "--url",
            service.url,
            "--n",
            "2",
            "--out",
            tmp_path / "full",
            "--set",
            "critique_style=brief",
            "--set",
            "top_p=0.5",
            "--set",
            "max_tokens=300",
        )
        assert again.returncode == 2 and "of other options" in again.stderr
        shown = capo_eval(
            path, "--url", service.url, "--n", "2", "--out", tmp_path / "shown"
        ).stdout
    prompts = [engine.prompts[0], engine.prompts[12], engine.prompts[24]]
    assert len(set(prompts)) == 3, "each style asks in its own words"
    for style, found in told.items():
        assert found["style"] == style and found["critique_format"] == "json"
        assert len(found["template"]) == len(found["judge_digest"]) == 16
        sampling = {"n": 2, "temperature": None, "top_p": 0.5, "max_tokens": 300, "seed": 0}
        assert sampling.items() <= found["sampling"].items()
        assert found["sampling"]["critique_style"] == style
        line = found["table"][0]
        assert {"error_accuracy", "correct_accuracy", "f1"} <= line.keys()
    assert (
        "style brief, format json, template " in shown
        and "sampling: n 2, temperature the profile's" in shown
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--set", "critique_format=tag"], "capo eval can vary top_p, max_tokens, critique_style"),
        (["--set", "n=3"], "use --n 3"),
        (["--set", "thinking_tokens=3"], "use --thinking-tokens 3"),
        (["--thinking-tokens", "3,x"], "write whole numbers, separated by commas, such as 0,1024"),
        (["--thinking-tokens", "3,-1"], "write whole numbers"),
        (["--thinking-tokens", "3,,4"], "a value is blank"),
        (["--thinking-tokens", "99999999"], "thinking_tokens: Input should be less"),
        (["--critique-style", "brief,long"], "critique_style: Input should be 'verdict'"),
        (["--critique-style", "brief", "--set", "critique_style=full"], "and not by both"),
        (["--set", "oops"], "write NAME=VALUE"),
        (["--set", "max_tokens=0"], "max_tokens: Input should be greater"),
        (["--set", "critique_style=long"], "critique_style: Input should be 'verdict'"),
        (["--temperature", "0"], "raise temperature, or use method greedy"),
        (["--seed", "-1"], "'--seed': Input should be greater"),
    ],
)
def test_settings_that_cannot_be_are_told_before_anything_is_asked(
    arguments: list[str], said: str, tmp_path: Path
) -> None:
    done = capo_eval(data(tmp_path), "--url", "http://127.0.0.1:9", *arguments)
    assert done.returncode == 2 and said in done.stderr, done.stderr
    assert "\n" not in done.stderr.strip() and not (tmp_path / "data.jsonl.eval").exists()


def test_every_entry_is_judged_or_left_out_and_told(tmp_path: Path) -> None:
    good = {"input": "q", "steps": STEPS, "target": "4", "answer": "5", "mistake_index": 1}
    entries: list[object] = [
        good,
        good | {"mistake_index": 2},
        good | {"mistake_index": None},
        good | {"mistake_index": "x"},
        "{torn",
        good | {"steps": ["a", ""]},
        good | {"steps": ["a"] * 500, "input": "too many steps"},
        good | {"mistake_index": 9},
    ]
    path = data(tmp_path, *entries, count=0)
    with serving(verdict(1), settings(tmp_path, windows=False)) as service:
        found = report(path, "--url", service.url, "--n", "2")
        shown = capo_eval(path, "--url", service.url, "--n", "2").stdout
        fewer = report(
            path, "--url", service.url, "--n", "2", "--limit", 2, "--out", tmp_path / "o"
        )
    assert (found["entries"], found["examples"], found["left_out"]) == (8, 3, 5)
    groups = found["left_out_because"]
    assert {reason: group["entries"] for reason, group in groups.items()} == {
        "has a first wrong step that does not exist": [2, 8],
        "mistake_index is not a whole number": [4],
        "is not JSON": [5],
        "has a blank step": [6],
    }
    assert found["contradictory"] == 1 and found["unjudged"] == 1
    [group] = found["contradictions"].values()
    assert group["entries"] == [3]
    [group] = found["unjudged_because"].values()
    assert group["entries"] == [7] and "500 steps" in group["first"]
    assert "entries: 8: 3 judged, 5 left out" in shown
    assert "left out, has a first wrong step that does not exist: 2 (entries 2, 8" in shown
    assert "contradict each other, the answer is not the target, and no step is wrong: 1" in shown
    assert "unjudged, " in shown and "1 (entries 7" in shown
    assert (fewer["examples"], fewer["beyond_limit"], fewer["left_out"]) == (2, 1, 5)


def test_folders_that_cannot_be_are_told_in_one_line(tmp_path: Path, service: Service) -> None:
    path = data(tmp_path)
    a_file = tmp_path / "file"
    a_file.write_text("")
    for out in (a_file, a_file / "inside", Path("/dev/stdout"), Path("/proc/nowhere")):
        done = capo_eval(path, "--url", service.url, "--out", out)
        assert done.returncode == 2 and "cannot be used as a folder" in done.stderr, done.stderr
        assert "\n" not in done.stderr.strip()
    made = capo_eval(path, "--url", service.url, "--n", "1", "--out", tmp_path / "a" / "b")
    assert made.returncode == 0 and (tmp_path / "a" / "b" / "report.json").exists()


def test_a_pipe_needs_a_folder_to_be_named(tmp_path: Path, service: Service) -> None:
    text = data(tmp_path).read_text()
    for more, code in ([], 2), (["--out", tmp_path / "o", "--url", service.url, "--n", "1"], 0):
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "capo_client",
                "eval",
                "/dev/stdin",
                *map(str, more),
                "--no-plots",
            ],
            input=text,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert done.returncode == code, done.stderr
        assert code == 0 or "name a folder for results with --out" in done.stderr
