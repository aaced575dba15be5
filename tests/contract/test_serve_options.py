"""The command line of `capo serve`: what it sets, and what it says of that with --print-config."""

from __future__ import annotations

import shlex
import tomllib
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from capo_service.cli import serve as serve_module
from capo_service.cli.demo_notice import gpu_is_here, notice
from capo_service.cli.print_config import HIDDEN, as_toml
from capo_service.cli.serve import serve
from capo_service.settings import Settings, load
from capo_service.settings.sources import sources

ROOT = Path(__file__).resolve().parents[2]
app = typer.Typer()
app.command("serve", cls=serve.command_class)(serve)  # type: ignore[attr-defined]


@pytest.fixture(autouse=True)
def _served(monkeypatch: pytest.MonkeyPatch) -> dict[str, Settings]:
    """Settings with which the command would have served."""
    found: dict[str, Settings] = {}

    def run(settings: Settings) -> int:
        found["settings"] = settings
        return 0

    monkeypatch.setattr(serve_module, "run", run)
    return found


def asked(line: str, code: int = 0) -> str:
    done = CliRunner().invoke(app, shlex.split(line))
    assert done.exit_code == code, done.output
    return done.output


# Every form of `capo serve` that pages and recipes had before options had names of their own.
FORMER = {
    "": {"model": "demo", "critique_style": "verdict", "prefill": False},
    "--engine symbolic": {"engine": "symbolic"},
    "--model embedded --port 0": {"model": "embedded", "port": 0},
    "--model testbed": {"model": "testbed", "critique_style": "verdict", "prefill": False},
    "--model Q/7B": {"model": "Q/7B", "critique_style": "brief", "prefill": True},
    "--model Q/72B --engine-arg tensor_parallel_size=4": {
        "model": "Q/72B",
        "engine_args": {"tensor_parallel_size": 4},
    },
    "--host 0.0.0.0 --model Q/7B": {"host": "0.0.0.0", "model": "Q/7B"},
    "--host 0.0.0.0 --model Q/72B --critique-style full --set critique_format=tag "
    "--engine-arg tensor_parallel_size=4": {"critique_style": "full", "critique_format": "tag"},
    "--engine openai --upstream http://vllm:8000 --model Q/72B": {"upstream": "http://vllm:8000"},
    "--set api_keys_file=keys.toml": {"api_keys_file": Path("keys.toml")},
    "--set canary_seconds=15 --set live_rollouts=200": {"canary_seconds": 15, "live_rollouts": 200},
    """--set 'tokenizers={"gpt2": "gpt2"}'""": {"tokenizers": {"gpt2": "gpt2"}},
    "--set log_format=json --set symbolic_votes=4": {"log_format": "json", "symbolic_votes": 4},
    """--set 'engine_args={"seed": 1}'""": {"engine_args": {"seed": 1}},
    "--engine-arg max-num-seqs=512 --engine-arg enforce_eager=true": {
        "engine_args": {"max_num_seqs": 512, "enforce_eager": True}
    },
}


@pytest.mark.parametrize("line", FORMER)
def test_former_command_lines_mean_what_they_meant(line: str, _served: dict[str, Settings]) -> None:
    asked(line)
    found = _served["settings"]
    for name, value in FORMER[line].items():
        assert getattr(found, name) == value, name


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("Q/7B", {"model": "Q/7B"}),
        ("Q/7B --model Q/7B", {"model": "Q/7B"}),
        ("Q/7B --engine openai --base-url http://x/v1", {"upstream": "http://x/v1"}),
        (
            "--tokenizer my-policy=Q/7B --tokenizer b=./b",
            {"tokenizers": {"my-policy": "Q/7B", "b": "./b"}},
        ),
        (
            """--set 'tokenizers={"a": "x", "b": "y"}' --tokenizer b=z""",
            {"tokenizers": {"a": "x", "b": "z"}},
        ),
        (
            """--set 'engine_args={"seed": 1, "dtype": "auto"}' --engine-arg seed=2""",
            {"engine_args": {"seed": 2, "dtype": "auto"}},
        ),
        ("--log-level debug --log-format json", {"log_level": "debug", "log_format": "json"}),
        ("--api-keys-file k.toml", {"api_keys_file": Path("k.toml")}),
        ("--critique_style full -- Q/7B", {"critique_style": "full", "model": "Q/7B"}),
    ],
)
def test_options_set_what_they_say(
    line: str, expected: dict[str, Any], _served: dict[str, Settings]
) -> None:
    asked(line)
    for name, value in expected.items():
        assert getattr(_served["settings"], name) == value, name


def test_keys_and_certificates_have_options(tmp_path: Path, _served: dict[str, Settings]) -> None:
    pem = tmp_path / "pem"
    pem.touch()
    asked(f"--api-key a --api-key=b --ssl-certfile {pem} --ssl-keyfile {pem}")
    found = _served["settings"]
    assert [key.get_secret_value() for key in found.api_keys] == ["a", "b"]
    assert (found.tls_cert, found.tls_key) == (pem, pem)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("A --model B", "two models are given, A and B"),
        ("A B", "unexpected extra argument"),
        ("--tokenizer Q/7B", "--tokenizer Q/7B: write NAME=PATH"),
        ("--engine symbolic -tp 4", "no such option: -tp"),
        ("--engine symbolic --tensor-parallel-size=4", "the engine is symbolic"),
        ("--max-steps 3", "--set max_steps=VALUE"),
        ("--served-model-name x", "--served-model-name: clients do not name the judge"),
        ("--reasoning-parser qwen3", "--reasoning-parser: it has no effect here"),
        ("--allowed-origins x", "--set allow_origins=ORIGIN"),
        ("--base-url http://x", "add --engine openai"),
        ("--critique-style long", "'long' is not one of 'verdict', 'brief', 'full'"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_vllm_is_imported(line: str, says: str) -> None:
    said = " ".join(asked(line, 2).replace("│", " ").split())
    assert says.lower() in said.lower()


def test_without_vllm_its_options_say_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    said = asked("Q/7B --tensor-parallel-size 4", 2)
    assert "no such option: --tensor-parallel-size" in said
    assert "pip install 'capo-credit[service,gpu]'" in said


def test_the_configuration_is_printed_with_sources_and_can_be_used_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, _served: dict[str, Settings]
) -> None:
    config = tmp_path / "capo.toml"
    config.write_text('max_steps = 11\nport = 1\n[engine_args]\nseed = 3\n[tokenizers]\na = "x"\n')
    monkeypatch.setenv("CAPO_PORT", "2")
    monkeypatch.setenv("CAPO_ENGINE_ARGS", '{"seed": 4, "max_model_len": 9}')
    line = f"""Q/7B --config {config} --engine-arg seed=5 --set 'chat_template_kwargs={{"a.b": [1, "é\\""]}}'"""
    shown = asked(f"{line} --print-config")
    assert _served == {}, "nothing is served"
    assert '\nmodel = "Q/7B"  # command line\n' in shown
    assert "\nmax_steps = 11  # capo.toml\n" in shown
    assert "\nport = 2  # CAPO_PORT, capo.toml\n" in shown
    assert "# command line, CAPO_ENGINE_ARGS, capo.toml\n" in shown
    assert "\n# max_rollouts = 1024\n" in shown and "\n# template is not set\n" in shown
    for name in Settings.model_fields:
        assert f"{name} = " in shown or f"# {name} is not set" in shown
    assert tomllib.loads(shown)["engine_args"] == {"seed": 5, "max_model_len": 9}
    again = tmp_path / "again.toml"
    again.write_text(shown)
    asked(line)
    for variable in ("CAPO_PORT", "CAPO_ENGINE_ARGS"):
        monkeypatch.delenv(variable)
    assert load(again).model_dump() == _served["settings"].model_dump()


def test_secrets_are_not_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CAPO_NONCE_SECRET", "hush")
    shown = asked(
        "Q/7B --api-key hush --set result_cache=redis://user:hush@redis/1 --engine-arg hf_token=hush "
        "--print-config"
    )
    assert "hush" not in shown and shown.count(HIDDEN) == 4
    assert HIDDEN not in str(tomllib.loads(shown)), "a hidden value is not a value"
    monkeypatch.setenv("CAPO_API_KEY", "hush")
    shown = asked("--print-config")
    assert f'# api_keys = ["{HIDDEN}"]  # CAPO_API_KEY' in shown


@pytest.mark.parametrize("url", ["redis://user:hu@sh@redis/1", "rediss://redis?password=hush&a=b"])
def test_no_part_of_a_password_is_printed(url: str) -> None:
    shown = as_toml(Settings(result_cache=url), {})
    assert "sh@" not in shown and "hush" not in shown and HIDDEN in shown


def test_what_toml_lacks_is_a_comment() -> None:
    settings = Settings(engine_args={"x": None}, model="m")
    shown = as_toml(settings, {"engine_args": ["command line"]})
    assert "\n# engine_args = {'x': None}  # command line\n" in shown
    assert tomllib.loads(shown) == {}


def test_variables_that_are_not_ours_are_no_source(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("CAPO_PORT", "tcp://10.0.0.1:8000"), ("PORT", "1"), ("CAPO_URL", "x")):
        monkeypatch.setenv(name, value)
    assert sources(None, []) == {}
    monkeypatch.setenv("capo_host", "::1")
    assert sources(None, ["host"]) == {"host": ["command line", "capo_host"]}


def test_the_file_of_the_settings_page_can_be_loaded(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "settings.md").read_text("utf-8")
    config = tmp_path / "capo.toml"
    config.write_text(page.partition("```toml\n")[2].partition("```")[0])
    found = load(config)
    assert found.engine_args["tensor_parallel_size"] == 4 and found.tokenizers and found.api_keys


def test_help_shows_choices_defaults_and_examples() -> None:
    shown = " ".join(asked("--help").replace("│", " ").split())
    for part in (
        "vllm|openai|symbolic",
        "verdict|brief|full",
        "debug|info|warning|error",
        "text|json",
        "[default: (127.0.0.1)]",
        "[default: (demo)]",
        "[env var: CAPO_CONFIG]",
        "--base-url",
        "capo serve Qwen/Qwen2.5-7B-Instruct --max-model-len 16384",
        "docs/settings.md",
    ):
        assert part in shown, part


def test_a_service_without_a_model_says_so_and_louder_next_to_a_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert not gpu_is_here(tmp_path)
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev" / "nvidiactl").touch()
    assert not gpu_is_here(tmp_path), "the driver alone"
    (tmp_path / "dev" / "nvidia0").touch()
    assert gpu_is_here(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert not gpu_is_here(tmp_path), "the user hides it"
    quiet, loud = notice(Settings(), False), notice(Settings(), True)
    assert quiet and "serving the demo judge" in quiet and "Qwen2.5-7B" in quiet
    assert loud and "ONLY THE DEMO JUDGE" in loud and "Qwen2.5-7B" in loud
    for given in ({"model": "demo"}, {"engine": "symbolic"}):
        assert notice(Settings(**given), True) is None  # type: ignore[arg-type]
