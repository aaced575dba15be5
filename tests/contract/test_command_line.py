"""What all commands have in common: options, usage errors, exit codes, words while waiting."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, get_args

import pytest
import typer

import capo_wire as wire
from capo_client.cli import console, main, usage
from capo_client.cli.exit_codes import MEANINGS
from capo_client.cli.ports import free_port
from capo_service.engine.base import JudgeLimits
from kit_scripted import ScriptedEngine
from kit_service import Service, serving, settings

pytestmark = pytest.mark.slow  # a process for each command
ROOT = Path(__file__).resolve().parents[2]
ROLLOUT = '{"question": "q", "response": "a", "outcome": 1}\n'
LABELLED = '{"question": "q", "steps": ["a"], "wrong_steps": []}\n'
OWN = ["attack", "credit", "demo", "doctor", "eval", "info"]
OTHERS = ["check-alignment", "key", "prompt", "runs", "serve", "testbed", "train"]


def capo(folder: Path, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    (folder / "in.jsonl").write_text(ROLLOUT)
    (folder / "labelled.jsonl").write_text(LABELLED)
    return subprocess.run(
        [sys.executable, "-m", "capo_client", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=folder,
        env={**os.environ, "COLUMNS": "200", **environment},
    )


def parsed(command: str, *arguments: str) -> dict[str, Any]:
    """The parameters of a command after parsing; it does not run."""
    app = typer.Typer()
    app.registered_commands = list(main.app.registered_commands)
    for entry in entry_points(group="capo.commands"):
        if entry.name == command:
            app.command(entry.name, cls=usage.Command)(entry.load())
    group: Any = typer.main.get_command(app)
    context = group.make_context("capo", ["--help"], resilient_parsing=True)
    found = group.get_command(context, command)
    return dict(found.make_context(command, list(arguments), parent=context).params)


FILES = ["in.jsonl", "--out", "out.jsonl"]
FORMER = [
    ("credit", [*FILES, "--deadline", "5"], [*FILES, "--timeout", "5"]),
    ("credit", [*FILES, "--deadline=5"], [*FILES, "--timeout", "5"]),
    ("credit", [*FILES, "--no-critiques", "--no-retry-errors"], FILES),
    ("credit", [*FILES, "--critiques", "--no-critiques"], FILES),
    ("credit", [*FILES, "--hide-reference", "--no-hide-reference"], FILES),
    (
        "credit",
        ["--critiques", *FILES, "--hide-reference"],
        [*FILES, "--hide-reference", "--critiques"],
    ),
    ("credit", [*FILES, "--n", "2"], [*FILES, "-k", "2"]),
    ("credit", ["--out", "o", "--", "--deadline"], ["--out", "o", "--", "--deadline"]),
    ("eval", ["f", "--deadline", "5"], ["f", "--timeout", "5"]),
    ("attack", ["--deadline", "5"], ["--timeout", "5"]),
    ("demo", ["--keep", "--no-keep"], []),
    ("testbed", ["--again", "--no-quick"], ["--force"]),
    ("testbed", ["--again", "--no-again"], []),
]


@pytest.mark.parametrize(("command", "former", "today"), FORMER, ids=str)
def test_former_options_still_work(command: str, former: list[str], today: list[str]) -> None:
    assert parsed(command, *former) == parsed(command, *today)


def test_former_options_do_what_they_did(service: Service, tmp_path: Path) -> None:
    given = ["--url", service.url, "--no-critiques", "--hide-reference", "--deadline", "60"]
    done = capo(tmp_path, "credit", "in.jsonl", "--out", "out.jsonl", *given)
    assert done.returncode == 0, done.stderr
    assert "critiques" not in (tmp_path / "out.jsonl").read_text().partition('"usage"')[0]
    shown = capo(tmp_path, "credit", "--help").stdout
    for hidden in ("--deadline", "--no-"):
        assert hidden not in shown
    assert "--show-reference" in shown and "--hide-reference" in shown


def test_credit_asks_for_thoughts_and_merged_steps(tmp_path: Path) -> None:
    engine = ScriptedEngine(thoughts=lambda prompt, sampling: "2 + 2 is 4, not 5." * 2)
    (tmp_path / "two.jsonl").write_text(
        json.dumps({"question": "q", "response": "2+2=5\n\nSo 5.", "outcome": 0}) + "\n"
    )
    given = ["--thinking-tokens", "20", "--thoughts", "--max-steps", "1", "--min-characters", "3"]
    with serving(engine, settings(tmp_path)) as service:
        files = ["two.jsonl", "--out", "out.jsonl", "--url", service.url]
        done = capo(tmp_path, "credit", *files, *given)
    assert done.returncode == 0, done.stderr
    [result] = map(json.loads, (tmp_path / "out.jsonl").read_text().splitlines())
    critique = result["critiques"][0]
    assert critique["thinking"] == "2 + 2 is 4, not 5.2 " and critique["thinking_truncated"]
    assert len(result["steps"]) == 1


CHOICES = [
    ("credit", "--method", wire.VotingMethod),
    ("credit", "--scheme", wire.RewardScheme),
    ("credit", "--segment", wire.SegmentMethod),
    ("credit", "--style", wire.CritiqueStyle),
    ("attack", "--method", wire.VotingMethod),
    ("demo", "--method", wire.VotingMethod),
]


@pytest.mark.parametrize("command", ["credit", "attack", "demo"])
def test_help_shows_choices_and_defaults(tmp_path: Path, command: str) -> None:
    shown = " ".join(capo(tmp_path, command, "--help").stdout.split())
    for _, option, choices in (each for each in CHOICES if each[0] == command):
        assert option in shown and "|".join(get_args(choices)) in shown
    for default in ("majority", "4", *(["http://127.0.0.1:8000"] if command != "demo" else [])):
        assert re.search(rf"\[default: \(?{re.escape(default)}", shown), default


@pytest.mark.parametrize(("command", "option", "choices"), CHOICES)
def test_a_choice_that_is_none_is_refused(command: str, option: str, choices: Any) -> None:
    files = FILES if command == "credit" else []
    for choice in get_args(choices):
        assert choice in parsed(command, *files, option, choice).values()
    with pytest.raises(usage._UsageError) as caught:
        parsed(command, *files, option, "none")
    said = usage._message(caught.value)
    assert all(choice in said for choice in get_args(choices)) and "Value error" not in said


@pytest.mark.parametrize("command", [*OWN, *OTHERS])
def test_an_option_that_does_not_exist_is_one_line_with_the_nearest(
    tmp_path: Path, command: str
) -> None:
    wanted = {"key": "--json", "train": "--config", "serve": "--port", "testbed": "--folder"}
    option = wanted.get(command, "--url" if command in OWN else "--json")
    said = capo(tmp_path, command, option + "x", "1")
    assert said.returncode == 2 and said.stdout == ""
    line = [each for each in said.stderr.splitlines() if each.startswith("capo ")]
    assert len(line) == 1 and said.stderr.count("\n") <= 2, said.stderr
    assert f"no such option: {option}x" in line[0] and f"did you mean {option}?" in line[0]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["credit"], "capo credit: missing argument 'FILE' (see capo credit --help)"),
        (["credi"], "capo: no such command 'credi'. Did you mean 'credit'? (see capo --help)"),
        (
            ["info", "--url"],
            "capo info: option '--url' requires an argument (see capo info --help)",
        ),
        (
            ["attack", "-k", "65"],
            "Input should be less than or equal to 64 (see capo attack --help)",
        ),
    ],
)
def test_usage_errors_are_one_line(tmp_path: Path, arguments: list[str], says: str) -> None:
    said = capo(tmp_path, *arguments)
    assert said.returncode == 2 and says in said.stderr and said.stderr.count("\n") == 1


def test_no_command_at_all_shows_help(tmp_path: Path) -> None:
    said = capo(tmp_path)
    assert said.returncode == 2 and "doctor" in said.stdout + said.stderr
    assert capo(tmp_path, "--version").returncode == capo(tmp_path, "-h").returncode == 0


def of_service(command: str, url: str, seconds: int = 2) -> list[str]:
    """The command line of a command that needs a service."""
    files = {"credit": FILES, "eval": ["labelled.jsonl"]}
    timeout = ["--timeout", str(seconds)] if command in ("attack", "credit", "eval") else []
    return [command, *files.get(command, []), *timeout, "--url", url]


@pytest.mark.parametrize("command", OWN)
def test_without_a_service_the_exit_code_is_3(tmp_path: Path, command: str) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    gone = capo(tmp_path, *of_service(command, url))
    assert gone.returncode == 3, gone.stdout + gone.stderr
    assert url in gone.stdout + gone.stderr and "Traceback" not in gone.stderr


@pytest.mark.parametrize("command", OWN)
def test_a_url_without_a_scheme_is_a_usage_error(tmp_path: Path, command: str) -> None:
    said = capo(tmp_path, *of_service(command, "judge:8000"))
    assert said.returncode == 2 and "write http://judge:8000" in said.stderr
    assert said.stderr.count("\n") == 1


def test_the_trainer_refuses_a_url_before_it_loads_a_policy(tmp_path: Path) -> None:
    recipe = ["train", "--config", str(ROOT / "recipes" / "gsm8k_smollm2_cpu.toml"), "--dry-run"]
    said = capo(tmp_path, *recipe, "--set", "credit.url=judge:8000")
    assert said.returncode == 2 and "write http://judge:8000" in said.stderr
    without = capo(tmp_path, *recipe, "--set", "credit.reward=outcome", CAPO_URL="judge:8000")
    assert without.returncode == 0, "no service is needed"


@pytest.mark.parametrize("command", OWN)
def test_with_a_service_the_exit_code_is_0(service: Service, tmp_path: Path, command: str) -> None:
    few = {"attack": ["--family", "long"], "eval": ["-k", "1", "--resamples", "20", "--no-plots"]}
    done = capo(tmp_path, *of_service(command, service.url, seconds=60), *few.get(command, []))
    assert done.returncode == 0, done.stdout + done.stderr


def test_failures_of_rollouts_have_exit_code_1(service: Service, tmp_path: Path) -> None:
    done = capo(tmp_path, "credit", "labelled.jsonl", "--out", "o", "--url", service.url)
    assert done.returncode == 1 and "1 errors" in done.stdout
    wrong = capo(tmp_path, "doctor", "--url", service.url, "--tokenizer", "none")
    assert wrong.returncode == 1


def test_the_table_of_exit_codes_is_the_same_everywhere(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "commands.md").read_text("utf-8")
    rows = dict(re.findall(r"^\| (\d+) \| (.*?) \|", page, re.MULTILINE))
    assert rows == {str(code): meaning for code, meaning in MEANINGS.items()}
    shown = capo(tmp_path, "--help").stdout.replace("`", "")
    for code, meaning in MEANINGS.items():
        assert f"{code} {meaning.replace('`', '')}" in " ".join(shown.split())


class NeverLoaded(ScriptedEngine):
    async def start(self) -> JudgeLimits:
        import asyncio

        await asyncio.Event().wait()
        raise AssertionError


@pytest.mark.parametrize("command", ["attack", "credit", "eval"])
def test_waiting_is_said(tmp_path: Path, command: str) -> None:
    with serving(NeverLoaded(), settings(tmp_path), wait=False) as service:
        # Long enough for the Retry-After of a service that loads its judge.
        waited = capo(tmp_path, *of_service(command, service.url, seconds=7))
    assert waited.returncode == 3, waited.stderr
    first = waited.stderr.splitlines()[0]
    assert first.startswith(f"capo {command}: waiting for {service.url} (attempt 2, "), first
    assert " s left): " in first and "the judge scripted" in first


def test_connections_that_are_refused_are_said_at_once(tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    said = capo(tmp_path, *of_service("credit", url)).stderr.splitlines()
    assert re.match(rf"capo credit: waiting for {url} \(attempt 2, [12] s left\)", said[0])
    assert "Connection refused" in said[0]


def test_what_the_client_logs_is_shown_while_a_command_runs(
    capsys: pytest.CaptureFixture[str],
) -> None:
    log = console.logging.getLogger("capo_client")
    before = list(log.handlers)
    with console.client_log("capo x"):
        log.warning("waiting for %s", "it")
        log.info("not this")
    assert capsys.readouterr().err == "capo x: waiting for it\n" and log.handlers == before
