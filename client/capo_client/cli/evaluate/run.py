"""`capo eval`: the accuracy of a running service's judge on labelled steps."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError

from capo_client import errors
from capo_client.cli import console
from capo_client.cli.evaluate import judging, plots, report, shown
from capo_client.cli.evaluate.formats import FormatError, read
from capo_client.cli.evaluate.report import VARIED, Labels
from capo_client.cli.evaluate.variants import VariantError, variants
from capo_client.cli.exit_codes import UNAVAILABLE, USAGE
from capo_client.cli.file_job import FileJobError, check_judge
from capo_client.cli.options import (
    DEFAULT_TEMPERATURE,
    TEMPERATURE_HELP,
    ApiKeyOption,
    CritiquesOption,
    JsonOption,
    UrlOption,
)
from capo_client.client import CreditClient
from capo_wire.assignments import parse_pairs
from capo_wire.validation import first_error

_BATCH_SIZE, _CONCURRENCY = 4, 16
_WINDOW = _BATCH_SIZE * _CONCURRENCY * 4  # rollouts that share a deadline; see `FileJob.run`


def evaluate(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            help="Labelled solutions: ProcessBench, BIG-Bench Mistake, MR-GSM8K, PRM800K, or JSON "
            "lines with question, steps and wrong_steps, of trajectories also observations.",
        ),
    ],
    url: UrlOption = None,
    api_key: ApiKeyOption = None,
    n: CritiquesOption = 16,
    temperature: Annotated[
        float | None, typer.Option(help=TEMPERATURE_HELP, show_default=DEFAULT_TEMPERATURE)
    ] = None,
    seed: Annotated[
        int, typer.Option(min=0, help="Random seed of the judge and of the bootstrap.")
    ] = 0,
    setting: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            help=f"Change how the judge is asked; repeatable. Names: {', '.join(VARIED)}.",
            show_default="the service's settings",
        ),
    ] = None,
    thinking_tokens: Annotated[
        str | None,
        typer.Option(
            metavar="N[,N...]",
            help="Thinking budgets, each judged in turn; 0: none. F1 is reported against tokens.",
            show_default="the service's",
        ),
    ] = None,
    critique_style: Annotated[
        str | None,
        typer.Option(
            metavar="STYLE[,STYLE...]",
            help="Styles (verdict, brief, full), each judged in turn with each thinking budget.",
            show_default="the service's",
        ),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(
            metavar="N", min=1, help="Judge only the first N solutions.", show_default="all"
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", help="Folder for results and report.", show_default="FILE.eval"
        ),
    ] = None,
    exact: Annotated[
        bool,
        typer.Option(
            "--exact",
            metavar="",
            help="Measure exact votes too, which need no sampling; see capo credit --exact.",
        ),
    ] = False,
    resamples: Annotated[int, typer.Option(min=20, help="Resamples of the bootstrap.")] = 1000,
    draw: Annotated[
        bool,
        typer.Option("--plots/--no-plots", metavar="", help="Whether to draw plots (PNG)."),
    ] = True,
    timeout: Annotated[
        float,
        typer.Option(
            metavar="SECONDS", help=f"Timeout for every {_WINDOW} rollouts, retries included."
        ),
    ] = 7200,
    as_json: JsonOption = False,
) -> None:
    """Evaluate a judge on step-labelled data, for every voting method and number of critiques.

    Each rollout is judged with --n sampled critiques and one greedy one; votes of fewer critiques
    are sampled from these. An interrupted run resumes when it is started again. Each judge needs
    its own --out.
    """
    sampling = {"n": n, "early_stop": False, "seed": seed, "temperature": temperature}
    try:
        varied = _varied(setting)
        if critique_style is not None and "critique_style" in varied:
            raise FormatError("give the style by --critique-style or by --set, and not by both")
        asked = [
            judging.ask(variant, sampling, varied, exact)
            for variant in variants(critique_style, thinking_tokens)
        ]
        format_, examples, left_out = read(file)
        chosen = examples[:limit]
        folder = _folder(file, out)
        source = folder / "rollouts.jsonl"
        with (
            console.client_log(judging.COMMAND),
            CreditClient(
                url, api_key=api_key, batch_size=_BATCH_SIZE, concurrency=_CONCURRENCY
            ) as client,
        ):
            judge = client.info()
            check_judge(judge, judging.earlier_results(folder))
            source.write_text("".join(json.dumps(example.rollout()) + "\n" for example in chosen))
            results = [judging.judge(client, source, folder, each, timeout) for each in asked]
    except ValidationError as error:
        console.complain(judging.COMMAND, first_error(error)[1])
        raise typer.Exit(USAGE) from None
    except (FormatError, FileJobError, VariantError) as error:
        console.complain(judging.COMMAND, error)
        raise typer.Exit(USAGE) from None
    except (errors.UnavailableError, errors.DeadlineExceededError) as error:
        console.complain(judging.COMMAND, f"{error}; run the same command again to resume")
        raise typer.Exit(UNAVAILABLE) from None
    except errors.CapoError as error:
        console.complain(judging.COMMAND, error)
        raise typer.Exit(USAGE) from None
    labels = Labels(file.name, format_, chosen, len(examples) - len(chosen), left_out)
    reports = []
    for each, found in zip(asked, results, strict=True):
        judged = judging.judged(chosen, found)
        reports.append(report.build(labels, judge, each.voting, judged, found, resamples))
        if len(asked) > 1:
            _write(reports[-1], folder / each.variant.name)
            _draw(reports[-1], folder / each.variant.name, draw)
    figures = reports[0] if len(reports) == 1 else report.compare(judge, reports)
    _write(figures, folder)
    written = _draw(figures, folder, draw)
    if as_json:
        typer.echo(json.dumps(figures))
    elif len(reports) == 1:
        shown.show(figures, folder, written)
    else:
        shown.show_comparison(figures, folder, written)


def _varied(pairs: Sequence[str] | None) -> dict[str, Any]:
    """The fields of `voting` that `--set` gives; values are JSON if they parse as such.

    Raises:
        FormatError: a pair is malformed, or its name is not in `VARIED`.
    """
    try:
        values = parse_pairs(pairs, "--set")
    except ValueError as error:
        raise FormatError(str(error)) from None
    for name, value in values.items():
        if name in ("n", "temperature", "seed", "thinking_tokens"):
            option = name.replace("_", "-")
            raise FormatError(f"--set {name}={value}: use --{option} {value}")
        if name not in VARIED:
            raise FormatError(
                f"--set {name}={value}: capo eval can vary {', '.join(VARIED)}; other settings are "
                "the service's, so start `capo serve` with them and evaluate into another --out"
            )
    return values


def _folder(file: Path, out: Path | None) -> Path:
    """The folder for results; it is made if it is missing.

    Raises:
        FileJobError: it cannot be made or written to.
    """
    if out is None and not file.is_file():
        raise FileJobError(f"{file} is not an ordinary file; name a folder for results with --out")
    folder = out or file.with_name(file.name + ".eval")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "rollouts.jsonl").touch()
    except OSError as error:
        raise FileJobError(
            f"{folder} cannot be used as a folder for results: {error.strerror}; choose another "
            "--out"
        ) from error
    return folder


def _write(figures: Mapping[str, Any], folder: Path) -> None:
    (folder / "report.json").write_text(json.dumps(figures, indent=2) + "\n")


def _draw(figures: Mapping[str, Any], folder: Path, wanted: bool) -> list[Path]:
    if not wanted:
        return []
    try:
        return plots.draw(figures, folder)
    except ImportError:
        typer.echo("no plots: they need pip install 'capo-credit[eval]'", err=True)
        return []
