"""The `capo` command, as a process of its own, against a real service."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from kit import tokenizer
from kit_scripted import ScriptedEngine
from kit_service import Service, serving, settings, wait_for_lines


def capo(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "capo_client", *map(str, arguments)],
        capture_output=True, text=True, timeout=120, check=False,
        env={**os.environ, "COLUMNS": "200", **environment},
    )  # fmt: skip


def write(path: Path, *rollouts: object) -> Path:
    lines = (r if isinstance(r, str) else json.dumps(r) for r in rollouts)
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def good(number: int) -> dict[str, object]:
    return {"id": f"r{number}", "question": "q", "response": f"a\n\nb {number}", "outcome": 1}


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_version_and_info(service: Service) -> None:
    assert capo("--version").stdout.startswith("capo-credit 0.")
    shown = capo("info", CAPO_URL=service.url).stdout
    assert "scripted" in shown and "max_steps 40" in shown
    refused = capo("info", "--url", "http://127.0.0.1:9")
    assert refused.returncode == 3 and "cannot be reached" in refused.stderr


def test_a_file_is_credited_line_by_line_with_bad_lines_in_their_place(
    service: Service, tmp_path: Path
) -> None:
    source = write(tmp_path / "in.jsonl", good(0), "{torn", "", good(1), {"question": "q"}, "[]")
    out = tmp_path / "out.jsonl"
    done = capo("credit", source, "--out", out, "--url", service.url)
    assert done.returncode == 1, done.stderr
    assert "2 of 5 rollouts credited, 3 errors" in done.stdout
    assert [(r["line"], r["status"]) for r in lines(out)] == [
        (1, "ok"), (2, "error"), (4, "ok"), (5, "error"), (6, "error"),
    ]  # fmt: skip
    again = capo("credit", source, "--out", out, "--url", "http://127.0.0.1:9")
    assert "2 of 5 rollouts credited" in again.stdout, "all is done: nothing is sent"
    changed = write(tmp_path / "in.jsonl", good(5))
    refused = capo("credit", changed, "--out", out, "--url", service.url)
    assert refused.returncode == 2 and "another input" in refused.stderr


def test_a_job_that_was_killed_goes_on_where_it_stopped(tmp_path: Path) -> None:
    source = write(tmp_path / "in.jsonl", *map(good, range(40)))
    out = tmp_path / "out.jsonl"
    engine = ScriptedEngine(delay=0.1)
    with serving(engine, settings(tmp_path, max_running=1)) as service:
        command = [sys.executable, "-m", "capo_client", "credit", str(source), "--out", str(out)]
        job = subprocess.Popen([*command, "--url", service.url, "--batch-size", "4"])
        wait_for_lines(out, 5, job)
        job.send_signal(signal.SIGKILL)
        job.wait()
        with out.open("a") as file:
            file.write('{"line": 39, "of": "to')  # a line that the kill cut off
        before = {r["line"]: r for r in lines_that_are_whole(out)}
        engine.delay = 0
        resumed = capo("credit", source, "--out", out, "--url", service.url)
        assert resumed.returncode == 0, resumed.stderr
    found = lines(out)
    assert [r["line"] for r in found] == list(range(1, 41))
    assert len(before) >= 5 and all(found[line - 1] == r for line, r in before.items())  # type: ignore[operator]


def lines_that_are_whole(path: Path) -> list[dict[str, object]]:
    return [json.loads(t) for t in path.read_text().splitlines(keepends=True) if t.endswith("\n")]


def test_a_service_that_is_gone_leaves_the_rest_for_later(tmp_path: Path) -> None:
    source = write(tmp_path / "in.jsonl", *map(good, range(3)))
    out = tmp_path / "out.jsonl"
    gone = capo("credit", source, "--out", out, "--url", "http://127.0.0.1:9", "--deadline", "2")
    assert gone.returncode == 3 and "3 without a result: run the same command again" in gone.stdout
    assert out.read_text() == ""


@pytest.mark.parametrize(
    ("arguments", "environment", "says"),
    [
        (["--set", "max_stepz=3"], {}, "unknown setting max_stepz (did you mean max_steps?)"),
        ([], {"CAPO_MODLE": "x"}, "unknown setting CAPO_MODLE (did you mean CAPO_MODEL?)"),
        ([], {"CAPO_PORT": "many"}, "port: "),
        (["--engine", "openai"], {}, "engine openai needs upstream"),
        (["--engine", "magic"], {}, "'magic' is not one of 'vllm', 'openai', 'symbolic'"),
        (["--config", "nowhere.toml"], {}, "config file nowhere.toml does not exist"),
        (["--engine-arg", "oops"], {}, "write NAME=VALUE"),
        (["--template", "nowhere.j2"], {}, "template nowhere.j2 is not a file"),
    ],
)
def test_serve_refuses_settings_that_it_cannot_use(
    arguments: list[str], environment: dict[str, str], says: str
) -> None:
    refused = capo("serve", *arguments, **environment)
    assert refused.returncode == 2 and says in refused.stderr


def test_settings_come_from_options_then_variables_then_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from capo_service.settings import SettingsError, load

    config = tmp_path / "capo.toml"
    config.write_text('max_steps = 11\nport = 1\nhost = "file"\n[engine_args]\nseed = 3\n')
    monkeypatch.setenv("CAPO_PORT", "2")
    monkeypatch.setenv("CAPO_HOST", "variable")
    found = load(config, host="option")
    assert (found.max_steps, found.port, found.host) == (11, 2, "option")
    assert found.engine_args == {"seed": 3}
    for text, says in [("colour = 1", "unknown setting colour"), ("a = [", "Invalid value")]:
        config.write_text(text)
        with pytest.raises(SettingsError, match=says):
            load(config)


def test_serve_names_what_is_missing(tmp_path: Path) -> None:
    """Without the service's dependencies the command says which extra brings them."""
    (tmp_path / "fastapi.py").write_text("raise ImportError('no fastapi here')")
    found = capo("serve", PYTHONPATH=str(tmp_path))
    assert found.returncode == 2
    assert "pip install 'capo-credit[service]'" in found.stderr


def test_alignment_is_checked_and_shown_where_it_fails(tmp_path: Path) -> None:
    from transformers import PreTrainedTokenizerFast

    from capo_service.cli.check_alignment import Checker

    gpt2 = tokenizer("gpt2")
    folder = tmp_path / "policy"
    PreTrainedTokenizerFast(tokenizer_object=gpt2, eos_token="<|endoftext|>").save_pretrained(
        folder
    )
    text = "So 12 + 30 is 42.\n\nThen é.\n\n#### 7"
    ids = gpt2.encode(text).ids
    end = gpt2.token_to_id("<|endoftext|>")
    file = write(
        tmp_path / "rollouts.jsonl",
        {"response": text},
        {"response": text, "response_token_ids": [*ids, end]},
        {"response": text + "\n", "response_token_ids": ids},
        {"response": text.replace("42", "43"), "response_token_ids": ids},
        {"response_token_ids": [100_000]},
    )
    shown = capo("check-alignment", file, "--tokenizer", folder)
    assert shown.returncode == 1
    assert "line 4 does not align: character 15" in shown.stdout
    assert "with '2.\\n\\nThen é" in shown.stdout and "'3.\\n\\nThen é" in shown.stdout
    assert "line 5 does not align: id 100000 is not in the vocabulary" in shown.stdout
    assert "5 rollouts" in shown.stdout and "2 exact, 1 aligned" in shown.stdout
    checked = list(Checker(str(folder)).lines(file))
    assert [line.verdict for line in checked] == ["exact", "exact", "aligned", "wrong", "wrong"]
    assert checked[0].steps == 3 and all(line.same_by_offsets for line in checked)
    assert json.loads(checked[3].as_json())["detail"].startswith("character 15, at token")
    with pytest.raises(ValueError, match="cannot be loaded"):
        Checker(str(tmp_path / "nothing"))
    bad = write(tmp_path / "bad.jsonl", "[1]")
    with pytest.raises(ValueError, match="line 1 is not a JSON object"):
        list(Checker(str(folder)).lines(bad))


def test_what_is_piped_is_plain_and_json_is_one_object(service: Service, tmp_path: Path) -> None:
    shown = capo("info", "--url", service.url).stdout
    assert "model\tscripted\n" in shown and "\x1b" not in shown
    assert json.loads(capo("info", "--url", service.url, "--json").stdout)["model"] == "scripted"
    source = write(tmp_path / "in.jsonl", good(0), "{torn")
    done = capo("credit", source, "--out", tmp_path / "out.jsonl", "--url", service.url, "--json")
    told = json.loads(done.stdout)
    assert done.returncode == 1 and (told["credited"], told["errors"], told["missing"]) == (1, 1, 0)
    assert told["first_error"]["line"] == 2
    seen = capo("demo", "--url", service.url, "--json")
    assert len(json.loads(seen.stdout)["results"]) == 8
    entry = json.loads(capo("key", "team", "--json").stdout)
    assert (
        entry["name"] == "team"
        and "sha256" in entry["entry"]
        and entry["key"] not in entry["entry"]
    )


def test_a_job_that_is_interrupted_says_what_is_kept(tmp_path: Path) -> None:
    source = write(tmp_path / "in.jsonl", *map(good, range(40)))
    out = tmp_path / "out.jsonl"
    with serving(ScriptedEngine(delay=0.1), settings(tmp_path, max_running=1)) as service:
        command = [sys.executable, "-m", "capo_client", "credit", str(source), "--out", str(out)]
        job = subprocess.Popen(
            [*command, "--url", service.url, "--batch-size", "4"], stderr=subprocess.PIPE, text=True
        )
        wait_for_lines(out, 3, job)
        job.send_signal(signal.SIGINT)
        said = job.communicate(timeout=30)[1]
    assert (
        job.returncode == 130 and f"Results so far are in {out}" in said and "Traceback" not in said
    )


def test_shells_complete_commands_and_options() -> None:
    def completed(words: str, position: int) -> set[str]:
        asked = {
            "_CAPO_COMPLETE": "complete_bash",
            "COMP_WORDS": words,
            "COMP_CWORD": str(position),
        }
        command = [str(Path(sys.executable).with_name("capo"))]
        done = subprocess.run(
            command, env=os.environ | asked, capture_output=True, text=True, timeout=60, check=False
        )
        return set(done.stdout.split())

    assert completed("capo e", 1) == {"eval"}
    assert {"serve", "credit", "train", "attack"} <= completed("capo ", 1)
    assert completed("capo serve --cri", 2) == {"--critique-style"}
