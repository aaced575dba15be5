"""`capo serve`, `capo prompt`, `capo check-alignment` and `capo key`."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import logging
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from capo_client.jsonlines import is_own_output
from capo_service import garbage, logs, tracing
from capo_service.api.app import create_app
from capo_service.api.protocol import raise_file_limit
from capo_service.api.server import CannotListenError, Server, server_config
from capo_service.engine.base import Engine
from capo_service.judge_template import load_template
from capo_service.keys import KeyFileError, make_key
from capo_service.prompts import judge_prompts, write
from capo_service.settings import Settings, SettingsError, load

log = logging.getLogger(__name__)

NO_JUDGE, NO_PORT = 4, 5  # exit codes of `capo serve`

_NO_VLLM = (
    "the judge runs in vLLM, which {}: pip install 'capo-credit[service,gpu]' (NVIDIA), or "
    "'capo-credit[service,cpu]'. Without vLLM: --engine symbolic (checks arithmetic), or "
    "--engine openai --upstream URL --model NAME"
)

TemplateOption = Annotated[
    Path | None, typer.Option(help="A prompt template in place of the built-in.")
]
StyleOption = Annotated[str | None, typer.Option(help="`verdict`, `brief` or `full`.")]


def serve(
    model: Annotated[
        str | None, typer.Option(help="The judge: hub name, folder, `embedded`, or `testbed`.")
    ] = None,
    engine: Annotated[
        str | None, typer.Option(help="`vllm` (in process), `openai` or `symbolic`.")
    ] = None,
    upstream: Annotated[
        str | None, typer.Option(help="Engine openai: base URL of the server.")
    ] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on.")] = None,
    template: TemplateOption = None,
    critique_style: StyleOption = None,
    config: Annotated[
        Path | None, typer.Option(help="TOML file of settings.", envvar="CAPO_CONFIG")
    ] = None,
    engine_arg: Annotated[
        list[str] | None,
        typer.Option(help="A vLLM engine argument, as tensor_parallel_size=8; repeatable."),
    ] = None,
    setting: Annotated[
        list[str] | None,
        typer.Option("--set", help="Any other setting, as max_steps=1000; repeatable."),
    ] = None,
) -> None:
    """Host a judge and answer POST /credit.

    Settings come from these options, then from CAPO_* variables, then from --config.
    """
    options = {
        "model": model, "engine": engine, "upstream": upstream, "host": host, "port": port,
        "template": template, "critique_style": critique_style,
    }  # fmt: skip
    overrides: dict[str, Any] = {
        name: value for name, value in options.items() if value is not None
    }
    try:
        overrides |= _pairs(setting, "--set")
        if arguments := _pairs(engine_arg, "--engine-arg"):
            overrides["engine_args"] = arguments
        settings = load(config, **overrides)
    except SettingsError as error:
        typer.secho(f"capo serve: {error}", err=True, fg="red")
        raise typer.Exit(2) from None
    raise typer.Exit(run(settings))


def prompt(
    file: Annotated[Path, typer.Argument(help="Rollouts, one JSON object a line.")],
    out: Annotated[Path, typer.Option(help="Prompts, one JSON object a line.")],
    model: Annotated[
        str | None, typer.Option(help="A judge whose tokenizer encodes them; without: text only.")
    ] = None,
    template: TemplateOption = None,
    critique_style: StyleOption = None,
    setting: Annotated[
        list[str] | None, typer.Option("--set", help="Any other setting of the service.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Write what the judge would be asked about rollouts, without a judge."""
    options = {"model": model, "template": template, "critique_style": critique_style}
    overrides: dict[str, Any] = {name: v for name, v in options.items() if v is not None}
    try:
        settings = load(None, **overrides | _pairs(setting, "--set"))
        rendered = judge_prompts(
            file, load_template(settings.template, settings.model), settings, model
        )
        count = write(rendered, out)
    except (ValueError, OSError) as error:
        typer.secho(f"capo prompt: {error}", err=True, fg="red")
        raise typer.Exit(2) from None
    told = {"prompts": count, "out": str(out)}
    # Into standard output go the prompts alone.
    typer.echo(json.dumps(told) if as_json else f"{count} prompts in {out}", err=is_own_output(out))


def check_alignment(
    file: Annotated[
        Path,
        typer.Argument(help="Rollouts a line: `response`, `response_token_ids` or both."),
    ],
    tokenizer: Annotated[str, typer.Option(help="The policy's: hub name or folder.")],
    segment: Annotated[
        str, typer.Option(help="`blank_line`, `newline` or `sentence`.")
    ] = "blank_line",
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object a rollout, nothing else.")
    ] = False,
) -> None:
    """Check that a tokenizer and rollouts align to the token, and show where not.

    Needs no service and no judge. Exits with 1 if some rollouts do not align.
    """
    from capo_service.check_alignment import SEGMENTERS, Checker

    try:
        if segment not in SEGMENTERS:
            raise ValueError(f"--segment {segment}: take one of {', '.join(SEGMENTERS)}")
        checker = Checker(tokenizer, segment)
        found = []
        for line in checker.lines(file):
            found.append(line)
            if as_json:
                typer.echo(line.as_json())
            elif line.verdict == "wrong":
                typer.echo(f"line {line.line} does not align: {line.detail}")
    except (ValueError, OSError) as error:
        typer.secho(f"capo check-alignment: {error}", err=True, fg="red")
        raise typer.Exit(2) from None
    if not as_json:
        typer.echo(checker.summary(found))
    if any(line.verdict == "wrong" for line in found):
        raise typer.Exit(1)


def key(
    name: Annotated[str, typer.Argument(help="Whose key it is, as logs will call it.")],
    as_json: Annotated[
        bool, typer.Option("--json", help="Key and entry as one JSON object on standard output.")
    ] = False,
) -> None:
    """Make an API key: the key on standard error, its entry for `api_keys_file` on standard output.

    capo key team-a >> keys.toml
    """
    try:
        value, entry = make_key(name)
    except KeyFileError as error:
        typer.secho(f"capo key: {error}", err=True, fg="red")
        raise typer.Exit(2) from None
    if as_json:
        typer.echo(json.dumps({"name": name, "key": value, "entry": entry}))
        return
    typer.echo(f"{name}'s key, shown only now: {value}", err=True)
    typer.echo(entry)


def run(settings: Settings) -> int:
    """Serve until a signal; the exit code."""
    logs.set_up(settings)
    raise_file_limit()
    # vLLM reports usage to its makers unless told otherwise; a judge may be nobody's business.
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    failures: list[BaseException] = []

    def on_failure(error: BaseException) -> None:
        failures.append(error)
        server.should_exit = True

    try:
        flush_traces = tracing.set_up(settings)
        app = create_app(settings, make_engine(settings), on_failure, garbage.settle)
    except ValueError as error:  # a template or key file that is not valid, no exporter
        typer.secho(f"capo serve: {error}", err=True, fg="red")
        return 2
    if settings.engine == "vllm" and "model" not in settings.model_fields_set:
        log.warning(
            "no --model is given: this serves the demo's judge (SmolLM2-135M), which finds no "
            "errors. For training name a model, as --model Qwen/Qwen2.5-7B-Instruct"
        )
    server = Server(server_config(settings, app), app.state.runtime)
    try:
        with contextlib.suppress(KeyboardInterrupt):
            server.run()
    except CannotListenError:
        log.error(
            "cannot listen on %s, port %d (the reason is above): take another --port or --host, or "
            "stop what listens there",
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


def make_engine(settings: Settings) -> Engine:
    """The engine that the settings name.

    Raises:
        ValueError: what it needs is not installed.
    """
    if settings.engine == "openai":
        from capo_client.addresses import proxy_for
        from capo_service.engine.openai import OpenAIEngine

        proxy = proxy_for(settings.upstream or "")
        key = settings.upstream_api_key
        return OpenAIEngine(
            settings.upstream or "",
            settings.model,
            api_key=key.get_secret_value() if key else None,
            prompt_form=settings.prompt_form,
            tokenizer=settings.tokenizer,
            template_kwargs=settings.chat_template_kwargs,
            concurrency=settings.upstream_concurrency,
            constrained=settings.critique_format == "json",
            proxy=proxy.url if proxy else None,
            proxy_name=str(proxy or ""),
        )
    if settings.engine == "symbolic":
        from capo_service.engine.symbolic import SymbolicEngine

        return SymbolicEngine()
    if importlib.util.find_spec("vllm") is None:
        raise ValueError(_NO_VLLM.format("is not installed"))
    try:
        from capo_service.engine.vllm import VllmEngine
    except ModuleNotFoundError as error:
        raise ValueError(_NO_VLLM.format(f"is not installed whole ({error})")) from None

    return VllmEngine(
        settings.model,
        settings.engine_args,
        settings.chat_template_kwargs,
        settings.engine_hang_seconds,
    )


def _pairs(given: list[str] | None, option: str) -> dict[str, Any]:
    """`name=value` pairs; values are JSON where they parse as such, else text."""
    found: dict[str, Any] = {}
    for pair in given or ():
        name, equals, value = pair.partition("=")
        if not equals:
            raise SettingsError(f"{option} {pair}: write name=value")
        try:
            found[name.strip().replace("-", "_")] = json.loads(value)
        except json.JSONDecodeError:
            found[name.strip().replace("-", "_")] = value
    return found


if __name__ == "__main__":
    sys.exit(run(load()))
