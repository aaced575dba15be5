"""`capo eval`: the accuracy of a running service's judge on labelled steps."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError

import capo_wire as wire
from capo_client import errors
from capo_client.cli import console
from capo_client.cli.evaluate import plots, report
from capo_client.cli.evaluate.examples import LabelledExample
from capo_client.cli.evaluate.formats import FormatError, read
from capo_client.cli.evaluate.measures import JudgedExample
from capo_client.cli.evaluate.report import VARIED, Labels
from capo_client.cli.exit_codes import UNAVAILABLE, USAGE
from capo_client.cli.file_job import FileJob, FileJobError
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

_COMMAND = "capo eval"
_BATCH_SIZE, _CONCURRENCY = 4, 16
_WINDOW = _BATCH_SIZE * _CONCURRENCY * 4  # rollouts that share a deadline; see `FileJob.run`


def evaluate(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            help="Labelled solutions: ProcessBench, BIG-Bench Mistake, MR-GSM8K, PRM800K, or JSON "
            "lines with question, steps and wrong_steps.",
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
    try:
        varied = _varied(setting)
        sampling = {"n": n, "early_stop": False, "seed": seed, "temperature": temperature, **varied}
        voting = wire.Voting.model_validate({"method": "average", **sampling})
        format_, examples, left_out = read(file)
        chosen = examples[:limit]
        source = _folder(file, out) / "rollouts.jsonl"
        with (
            console.client_log(_COMMAND),
            CreditClient(
                url, api_key=api_key, batch_size=_BATCH_SIZE, concurrency=_CONCURRENCY
            ) as client,
        ):
            judge = client.info()
            source.write_text("".join(json.dumps(example.rollout()) + "\n" for example in chosen))
            sampled, seconds = _judge(
                client, source, "sampled", timeout, {"method": "average", **sampling}
            )
            greedy, _ = _judge(client, source, "greedy", timeout, {"method": "greedy", **varied})
    except ValidationError as error:
        console.complain(_COMMAND, first_error(error)[1])
        raise typer.Exit(USAGE) from None
    except (FormatError, FileJobError) as error:
        console.complain(_COMMAND, error)
        raise typer.Exit(USAGE) from None
    except (errors.UnavailableError, errors.DeadlineExceededError) as error:
        console.complain(_COMMAND, f"{error}; run the same command again to resume")
        raise typer.Exit(UNAVAILABLE) from None
    except errors.CapoError as error:
        console.complain(_COMMAND, error)
        raise typer.Exit(USAGE) from None
    labels = Labels(file.name, format_, chosen, len(examples) - len(chosen), left_out)
    judged = [_judged(*row) for row in zip(chosen, sampled, greedy, strict=True)]
    figures = report.build(labels, judge, voting, judged, sampled, seconds, resamples)
    folder = source.parent
    (folder / "report.json").write_text(json.dumps(figures, indent=2) + "\n")
    written = _draw(figures, folder) if draw else []
    if as_json:
        typer.echo(json.dumps(figures))
        return
    report.show(figures, folder, written)


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
        if name in ("n", "temperature", "seed"):
            raise FormatError(f"--set {name}={value}: use --{name} {value}")
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


def _judge(
    client: CreditClient, source: Path, name: str, timeout: float, voting: Mapping[str, Any]
) -> tuple[list[dict[str, Any]], float | None]:
    """The results of all examples, and the seconds it took; None for a resumed run.

    Raises:
        FileJobError, CapoError: see `FileJob.run`.
        DeadlineExceededError: some results are missing.
    """
    options = {
        "voting": dict(voting),
        "reward": {"scheme": "process_only"},
        "include": ["critiques"],
        "priority": "evaluation",
    }
    job = FileJob(source, source.with_name(f"{name}.jsonl"), options)
    is_fresh, started = not job.results, time.monotonic()
    note = f"Results so far are in {job.target}; run the same command again to resume."
    with console.stoppable(_COMMAND, note), console.bar("rollouts") as bar:
        task = bar.add_task(name, total=job.total, completed=job.total - len(job.missing))
        job.run(client, timeout, lambda _: bar.advance(task))
    if job.missing:
        raise errors.DeadlineExceededError(
            f"{len(job.missing)} of {job.total} rollouts are not judged yet"
        )
    results = [json.loads(job.results[number]) for number in sorted(job.results)]
    return results, time.monotonic() - started if is_fresh else None


def _judged(
    example: LabelledExample, sampled: dict[str, Any], greedy: dict[str, Any]
) -> JudgedExample:
    symbolic = [c for c in sampled.get("critiques", []) if c.get("critic") == "symbolic"]
    greedy_critiques = _of_the_judge(greedy)
    return JudgedExample(
        example,
        tuple(_wrong_steps(critique) for critique in _of_the_judge(sampled)),
        _wrong_steps(greedy_critiques[0]) if greedy_critiques else None,
        frozenset(step for critique in symbolic for step in critique["wrong_steps"]),
        symbolic[0]["weight"] if symbolic else 0,
    )


def _of_the_judge(result: dict[str, Any]) -> list[dict[str, Any]]:
    return [c for c in result.get("critiques", []) if c.get("critic") != "symbolic"]


def _wrong_steps(critique: dict[str, Any]) -> frozenset[int] | None:
    return frozenset(critique["wrong_steps"]) if critique["valid"] else None


def _draw(figures: dict[str, Any], folder: Path) -> list[Path]:
    try:
        return plots.draw(figures, folder)
    except ImportError:
        typer.echo("no plots: they need pip install 'capo-credit[eval]'", err=True)
        return []
