"""`capo serve`: run the service."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from capo_service.api.app import create_app
from capo_service.api.server import CannotListenError, Server, server_config
from capo_service.cli import vllm_options
from capo_service.cli.demo_notice import gpu_is_here, notice
from capo_service.cli.options import (
    JUDGE_PANEL,
    ProfileOption,
    StyleOption,
    TemplateOption,
    ThinkingOption,
)
from capo_service.cli.overrides import add_engine_args, add_tokenizers, name_model
from capo_service.cli.print_config import as_toml
from capo_service.concurrency import gc_tuning
from capo_service.concurrency.process import prepare_process
from capo_service.observability import logs, tracing
from capo_service.pipeline.judge_profile import profile_in
from capo_service.pipeline.loading import make_backend
from capo_service.settings import Settings, load
from capo_service.settings.judge import DEMO_JUDGE, EngineName
from capo_service.settings.server import LogFormat, LogLevel
from capo_service.settings.sources import sources
from capo_wire.assignments import parse_pairs

log = logging.getLogger(__name__)

NO_JUDGE, NO_PORT = 4, 5  # exit codes of `capo serve`
_SERVER, _ACCESS, _LOG, _SETTINGS = "Server", "Access", "Log", "Settings"


def serve(
    context: typer.Context,
    judge: Annotated[
        str | None,
        typer.Argument(
            metavar="MODEL",
            help="Judge: Hugging Face name, folder, `demo`, `embedded` or `testbed`.",
            show_default=DEMO_JUDGE,
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="As the argument.", rich_help_panel=JUDGE_PANEL),
    ] = None,
    engine: Annotated[
        EngineName | None,
        typer.Option(
            help="What runs the judge: vLLM in this process, an OpenAI-compatible server, or no "
            "model at all, only a check of the arithmetic.",
            show_default="vllm",
            rich_help_panel=JUDGE_PANEL,
        ),
    ] = None,
    base_url: Annotated[
        str | None,
        typer.Option(
            "--base-url",
            "--upstream",
            metavar="URL",
            help="Engine openai: URL of the server, with or without /v1.",
            rich_help_panel=JUDGE_PANEL,
        ),
    ] = None,
    profile: ProfileOption = None,
    template: TemplateOption = None,
    critique_style: StyleOption = None,
    thinking_tokens: ThinkingOption = None,
    tokenizer: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=PATH",
            help="Tokenizer of the policy that is trained, for rollouts that name it; repeatable.",
            rich_help_panel=JUDGE_PANEL,
        ),
    ] = None,
    engine_arg: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE",
            help="Another spelling of vLLM's options: tensor_parallel_size=8; repeatable.",
            rich_help_panel=JUDGE_PANEL,
        ),
    ] = None,
    host: Annotated[
        str | None,
        typer.Option(
            help="Address to listen on; 0.0.0.0 for other machines.",
            show_default="127.0.0.1",
            rich_help_panel=_SERVER,
        ),
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(
            help="Port to listen on; 0: any free port.",
            show_default="8000",
            rich_help_panel=_SERVER,
        ),
    ] = None,
    ssl_certfile: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Certificate chain (PEM): HTTPS.", rich_help_panel=_SERVER
        ),
    ] = None,
    ssl_keyfile: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Its private key (PEM).", rich_help_panel=_SERVER),
    ] = None,
    api_key: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY",
            help="Key that clients must send; repeatable. Unlike CAPO_API_KEY and --api-keys-file, "
            "other users of this machine can see it in the list of processes.",
            show_default="CAPO_API_KEY, else none",
            rich_help_panel=_ACCESS,
        ),
    ] = None,
    api_keys_file: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="TOML file of hashed keys with roles and quotas, made by `capo key`.",
            rich_help_panel=_ACCESS,
        ),
    ] = None,
    log_level: Annotated[
        LogLevel | None,
        typer.Option(
            help="Lowest level logged; debug: HTTP requests too.",
            show_default="info",
            rich_help_panel=_LOG,
        ),
    ] = None,
    log_format: Annotated[
        LogFormat | None,
        typer.Option(help="Format of log lines.", show_default="text", rich_help_panel=_LOG),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="TOML file with settings.",
            envvar="CAPO_CONFIG",
            rich_help_panel=_SETTINGS,
        ),
    ] = None,
    setting: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            help="Any setting, such as max_steps=1000; repeatable.",
            rich_help_panel=_SETTINGS,
        ),
    ] = None,
    print_config: Annotated[
        bool,
        typer.Option(
            "--print-config",
            metavar="",
            help="Print all settings and where each comes from, and exit.",
            rich_help_panel=_SETTINGS,
        ),
    ] = False,
) -> None:
    """Run the service: load a judge and serve POST /credit.

    **Examples**

    - `capo serve`: the demo judge, on a CPU
    - `capo serve Qwen/Qwen2.5-7B-Instruct --max-model-len 16384`: a 7B judge on one GPU
    - `capo serve Qwen/Qwen2.5-72B-Instruct -tp 4 --host 0.0.0.0`: 72B on four GPUs, for trainers on
      other machines (set CAPO_API_KEY)

    Any engine option of `vllm serve` is accepted by its own name (`vllm serve --help=all`).

    Settings are taken from the options, then from CAPO_* variables, then from --config. All of them
    are in docs/settings.md, and --print-config shows their values.
    """
    options = {
        "engine": engine,
        "upstream": base_url,
        "host": host,
        "port": port,
        "profile": profile,
        "template": template,
        "critique_style": critique_style,
        "thinking_tokens": thinking_tokens,
        "tls_cert": ssl_certfile,
        "tls_key": ssl_keyfile,
        "api_keys": api_key or None,
        "api_keys_file": api_keys_file,
        "log_level": log_level,
        "log_format": log_format,
    }
    overrides: dict[str, Any] = {
        name: value for name, value in options.items() if value is not None
    }
    try:
        overrides |= parse_pairs(setting, "--set")
        name_model(overrides, judge, model)
        add_tokenizers(overrides, tokenizer)
        settings = add_engine_args(overrides, config, context.args, engine_arg)
    except ValueError as error:
        typer.secho(f"capo serve: {error}", err=True, fg="red")
        raise typer.Exit(2) from None
    if print_config:
        typer.echo(_config(settings, sources(config, overrides)), nl=False)
        return
    raise typer.Exit(run(settings))


serve.command_class = vllm_options.ServeCommand  # type: ignore[attr-defined]  # `capo` asks for it


def _config(settings: Settings, given: Mapping[str, Sequence[str]]) -> str:
    """The settings in effect; those that the judge's profile gives are shown with its values."""
    try:
        profile = profile_in(settings)
    except ValueError as error:
        typer.secho(f"capo serve: {error}", err=True, fg="red")
        raise typer.Exit(2) from None
    return as_toml(settings, given, {"profile": profile.name, "critique_style": profile.style})


def run(settings: Settings) -> int:
    """Serve until a signal; returns the exit code."""
    logs.set_up(settings)
    prepare_process()
    failures: list[BaseException] = []
    about_judge = notice(settings, gpu := gpu_is_here())

    def on_failure(error: BaseException) -> None:
        failures.append(error)
        server.should_exit = True

    def on_ready() -> None:
        gc_tuning.freeze_existing()
        if about_judge and gpu:  # again, after all that vLLM has logged
            log.warning(about_judge)

    try:
        flush_traces = tracing.set_up(settings)
        app = create_app(settings, make_backend(settings), on_failure, on_ready)
    except ValueError as error:  # a template or key file that is not valid, no exporter
        typer.secho(f"capo serve: {error}", err=True, fg="red")
        return 2
    if about_judge:
        log.warning(about_judge)
    server = Server(server_config(settings, app), app.state.service)
    try:
        with contextlib.suppress(KeyboardInterrupt):
            server.run()
    except CannotListenError:
        log.error(
            "cannot listen on %s, port %d (reason above): use another --port or --host, or stop "
            "the process that listens there",
            settings.host,
            settings.port,
        )
        return NO_PORT
    finally:
        flush_traces()
    for failure in failures:
        known = isinstance(failure, ValueError)
        log.error("the judge cannot be loaded: %s", failure, exc_info=None if known else failure)
    return NO_JUDGE if failures else 0


if __name__ == "__main__":
    sys.exit(run(load()))
