"""`capo serve`: run the service."""

from __future__ import annotations

import contextlib
import logging
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from capo_service.api.app import create_app
from capo_service.api.server import CannotListenError, Server, server_config
from capo_service.cli.options import StyleOption, TemplateOption
from capo_service.concurrency import gc_tuning
from capo_service.concurrency.process import prepare_process
from capo_service.observability import logs, tracing
from capo_service.pipeline.loading import make_backend
from capo_service.settings import Settings, load
from capo_wire.assignments import parse_pairs

log = logging.getLogger(__name__)

NO_JUDGE, NO_PORT = 4, 5  # exit codes of `capo serve`


def serve(
    model: Annotated[
        str | None, typer.Option(help="Judge: Hugging Face name, folder, `embedded` or `testbed`.")
    ] = None,
    engine: Annotated[
        str | None, typer.Option(help="What runs the judge: `vllm`, `openai` or `symbolic`.")
    ] = None,
    upstream: Annotated[
        str | None, typer.Option(help="Base URL of the server, for --engine openai.")
    ] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on; 0: any free port.")] = None,
    template: TemplateOption = None,
    critique_style: StyleOption = None,
    config: Annotated[
        Path | None, typer.Option(help="TOML file with settings.", envvar="CAPO_CONFIG")
    ] = None,
    engine_arg: Annotated[
        list[str] | None,
        typer.Option(help="vLLM engine argument, such as tensor_parallel_size=8; repeatable."),
    ] = None,
    setting: Annotated[
        list[str] | None,
        typer.Option("--set", help="Any other setting, such as max_steps=1000; repeatable."),
    ] = None,
) -> None:
    """Run the service: load a judge and serve POST /credit.

    Settings are taken from the options, then from CAPO_* variables, then from --config.
    """
    options = {
        "model": model,
        "engine": engine,
        "upstream": upstream,
        "host": host,
        "port": port,
        "template": template,
        "critique_style": critique_style,
    }
    overrides: dict[str, Any] = {
        name: value for name, value in options.items() if value is not None
    }
    try:
        overrides |= parse_pairs(setting, "--set")
        if arguments := parse_pairs(engine_arg, "--engine-arg"):
            overrides["engine_args"] = arguments
        settings = load(config, **overrides)
    except ValueError as error:
        typer.secho(f"capo serve: {error}", err=True, fg="red")
        raise typer.Exit(2) from None
    raise typer.Exit(run(settings))


def run(settings: Settings) -> int:
    """Serve until a signal; returns the exit code."""
    logs.set_up(settings)
    prepare_process()
    failures: list[BaseException] = []

    def on_failure(error: BaseException) -> None:
        failures.append(error)
        server.should_exit = True

    try:
        flush_traces = tracing.set_up(settings)
        app = create_app(settings, make_backend(settings), on_failure, gc_tuning.freeze_existing)
    except ValueError as error:  # a template or key file that is not valid, no exporter
        typer.secho(f"capo serve: {error}", err=True, fg="red")
        return 2
    if settings.engine == "vllm" and "model" not in settings.model_fields_set:
        log.warning(
            "no --model is given: this serves the demo's judge (SmolLM2-135M), which does not find "
            "errors. For training set a model, for example --model Qwen/Qwen2.5-7B-Instruct"
        )
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
