"""`capo credit`: credit a file of rollouts with a running service."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

import capo_wire as wire
from capo_client import errors
from capo_client.cli import console
from capo_client.cli.exit_codes import FAILURES, UNAVAILABLE, USAGE
from capo_client.cli.file_job import FileJob, FileJobError
from capo_client.cli.options import (
    CRITIQUES_HELP,
    DEFAULT_CRITIQUES,
    DEFAULT_METHOD,
    DEFAULT_TEMPERATURE,
    METHOD_HELP,
    TEMPERATURE_HELP,
    ApiKeyOption,
    ExactOption,
    JsonOption,
    SeedOption,
    UrlOption,
)
from capo_client.cli.step_options import (
    MaxStepsOption,
    MinCharactersOption,
    ObservationTokensOption,
    PatternOption,
    SegmentOption,
)
from capo_client.client import CreditClient

_VOTING, _REWARD, _SENDING = "Voting", "Reward", "Sending"  # panels of the help


def credit(
    file: Annotated[
        Path,
        typer.Argument(metavar="FILE", help="Rollouts as JSON lines; /dev/stdin reads a pipe."),
    ],
    out: Annotated[
        Path,
        typer.Option(metavar="FILE", help="Where results are written, as JSON lines."),
    ],
    url: UrlOption = None,
    api_key: ApiKeyOption = None,
    method: Annotated[
        wire.VotingMethod | None,
        typer.Option(help=METHOD_HELP, show_default=DEFAULT_METHOD, rich_help_panel=_VOTING),
    ] = None,
    n: Annotated[
        int | None,
        typer.Option(
            "--n",
            "-k",
            min=1,
            max=wire.MOST_CRITIQUES,
            help=CRITIQUES_HELP,
            show_default=f"{DEFAULT_CRITIQUES}, and 1 for greedy",
            rich_help_panel=_VOTING,
        ),
    ] = None,
    exact: ExactOption = False,
    temperature: Annotated[
        float | None,
        typer.Option(
            help=TEMPERATURE_HELP, show_default=DEFAULT_TEMPERATURE, rich_help_panel=_VOTING
        ),
    ] = None,
    seed: SeedOption = None,
    style: Annotated[
        wire.CritiqueStyle | None,
        typer.Option(
            help="Length of a critique.",
            show_default="the service's",
            rich_help_panel=_VOTING,
        ),
    ] = None,
    thinking_tokens: Annotated[
        int | None,
        typer.Option(
            min=0,
            metavar="N",
            help="Maximum tokens that the judge may think before each critique.",
            show_default="the service's",
            rich_help_panel=_VOTING,
        ),
    ] = None,
    scheme: Annotated[
        wire.RewardScheme | None,
        typer.Option(
            help="How outcome and votes become rewards.",
            show_default=wire.Reward().scheme,
            rich_help_panel=_REWARD,
        ),
    ] = None,
    w_whole: Annotated[
        float | None,
        typer.Option(
            help="Weight of the outcome.",
            show_default=f"{wire.Reward().w_whole:g}",
            rich_help_panel=_REWARD,
        ),
    ] = None,
    w_process: Annotated[
        float | None,
        typer.Option(
            help="Penalty of a wrong step.",
            show_default=f"{wire.Reward().w_process:g}",
            rich_help_panel=_REWARD,
        ),
    ] = None,
    w_criteria: Annotated[
        float | None,
        typer.Option(
            help="Weight of a rollout's criteria, for --scheme criteria.",
            show_default=f"{wire.Reward().w_criteria:g}",
            rich_help_panel=_REWARD,
        ),
    ] = None,
    criteria_dropout: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=0.999,
            metavar="P",
            help="Leave out each criterion with this probability, chosen by question and --seed.",
            show_default="0",
            rich_help_panel=_REWARD,
        ),
    ] = None,
    segment: SegmentOption = None,
    pattern: PatternOption = None,
    max_steps: MaxStepsOption = None,
    min_characters: MinCharactersOption = None,
    max_observation_tokens: ObservationTokensOption = None,
    critiques: Annotated[
        bool, typer.Option("--critiques", metavar="", help="Write the critiques' texts too.")
    ] = False,
    thoughts: Annotated[
        bool, typer.Option("--thoughts", metavar="", help="Write critiques and thoughts too.")
    ] = False,
    show_reference: Annotated[
        bool,
        typer.Option(
            "--show-reference/--hide-reference",
            metavar="",
            help="Whether the judge sees the reference answer.",
            rich_help_panel=_VOTING,
        ),
    ] = True,
    batch_size: Annotated[
        int, typer.Option(min=1, help="Rollouts per request.", rich_help_panel=_SENDING)
    ] = 16,
    concurrency: Annotated[
        int, typer.Option(min=1, help="Concurrent requests.", rich_help_panel=_SENDING)
    ] = 8,
    timeout: Annotated[
        float,
        typer.Option(
            metavar="SECONDS",
            help="Timeout for every batch-size x concurrency x 4 rollouts, retries included.",
            rich_help_panel=_SENDING,
        ),
    ] = 3600,
    retry_errors: Annotated[
        bool,
        typer.Option(
            "--retry-errors",
            metavar="",
            help="Send lines again that failed in an earlier run.",
            rich_help_panel=_SENDING,
        ),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Credit a file of rollouts with a running service.

    An interrupted run resumes when it is started again: lines with a result in --out are skipped.
    Exits with 1 if rollouts were refused, and with 3 if some have no result yet.
    """
    voting = {
        "method": method,
        "n": n,
        "exact": exact or None,
        "temperature": temperature,
        "seed": seed,
        "critique_style": style,
        "thinking_tokens": thinking_tokens,
        "criteria_dropout": criteria_dropout,
    }
    options = {
        "voting": _given(voting),
        "reward": _given(
            {
                "scheme": scheme,
                "w_whole": w_whole,
                "w_process": w_process,
                "w_criteria": w_criteria,
            }
        ),
        "segment": _given(
            {
                "method": segment,
                "pattern": pattern,
                "max_steps": max_steps,
                "min_characters": min_characters,
            }
        ),
        "max_observation_tokens": max_observation_tokens,
        "include": _include(critiques, thoughts),
        "show_reference": None if show_reference else False,
    }
    with (
        console.explained("capo credit"),
        CreditClient(
            url, api_key=api_key, batch_size=batch_size, concurrency=concurrency
        ) as client,
    ):
        try:
            job = FileJob(file, out, _given(options), retry_errors)
            _run(job, client, timeout)
        except FileJobError as error:
            console.complain("capo credit", error)
            raise typer.Exit(USAGE) from None
        except (errors.UnavailableError, errors.DeadlineExceededError) as error:
            console.complain("capo credit", error)  # the report follows
    _report(job, as_json)


def _include(critiques: bool, thoughts: bool) -> list[str] | None:
    texts = ["critiques", "thinking"] if thoughts else ["critiques"] if critiques else []
    return ["token_rewards", *texts] if texts else None


def _given(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value not in (None, {})}


def _run(job: FileJob, client: CreditClient, timeout: float) -> None:
    note = f"Results so far are in {job.target}; run the same command again to resume."
    with console.stoppable("capo credit", note), console.bar("rollouts") as bar:
        done = job.total - len(job.missing)
        task = bar.add_task("crediting", total=job.total, completed=done)

        def progress(_: wire.Credited | wire.Failed) -> None:
            bar.advance(task)

        job.run(client, timeout, progress)


def _report(job: FileJob, as_json: bool) -> None:
    credited, failed = len(job.results) - len(job.errors), len(job.errors)
    first = json.loads(job.results[min(job.errors)]) if job.errors else None
    if as_json:
        report = {
            "rollouts": job.total,
            "credited": credited,
            "errors": failed,
            "missing": len(job.missing),
            "out": str(job.target),
            "first_error": first and {"line": first["line"], **first["error"]},
        }
        typer.echo(json.dumps(report))
    else:
        typer.echo(f"{credited} of {job.total} rollouts credited, {failed} errors, in {job.target}")
        if first is not None:
            typer.echo(f"first error: line {first['line']}: {first['error']['detail']}")
        if job.missing:
            typer.echo(f"{len(job.missing)} without a result: run the same command again to resume")
    if job.missing:
        raise typer.Exit(UNAVAILABLE)
    if job.errors:
        raise typer.Exit(FAILURES)
