"""`capo eval`: a running service's judge against labelled steps."""

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
from capo_client.cli.evaluate.formats import Example, FormatError, read
from capo_client.cli.evaluate.measures import Judged
from capo_client.cli.evaluate.report import VARIED, Labels
from capo_client.cli.file_job import FileJob, FileJobError
from capo_client.client import CreditClient
from capo_wire.assignments import parse_pairs
from capo_wire.validation import first_error

_COMMAND = "capo eval"
_BATCH, _REQUESTS = 4, 16  # rollouts in a request, and requests at once


def evaluate(
    file: Annotated[
        Path,
        typer.Argument(
            help="Labelled solutions: ProcessBench, BIG-Bench Mistake, MR-GSM8K, PRM800K, or JSON "
            "lines of question, steps, wrong_steps."
        ),
    ],
    url: Annotated[
        str | None,
        typer.Option(help="URL of the service.", envvar="CAPO_URL", show_default="this machine's"),
    ] = None,
    api_key: Annotated[
        str | None, typer.Option(help="API key (Authorization: Bearer).", envvar="CAPO_API_KEY")
    ] = None,
    n: Annotated[
        int, typer.Option(min=1, max=wire.MOST_CRITIQUES, help="Critiques for each rollout.")
    ] = 16,
    temperature: Annotated[
        float, typer.Option(help="Sampling temperature of the judge.")
    ] = wire.Voting().temperature,
    seed: Annotated[
        int, typer.Option(help="Random seed of the judge, and of draws and resamples.")
    ] = 0,
    setting: Annotated[
        list[str] | None,
        typer.Option("--set", help=f"NAME=VALUE; repeatable. Names: {', '.join(VARIED)}."),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Judge only the first N solutions.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for results and report.", show_default="FILE.eval"),
    ] = None,
    resamples: Annotated[int, typer.Option(min=20, help="Resamples of the bootstrap.")] = 1000,
    draw: Annotated[bool, typer.Option("--plots/--no-plots", help="Draw pictures.")] = True,
    deadline: Annotated[
        float, typer.Option(help=f"Seconds for each {_BATCH * _REQUESTS * 4} rollouts.")
    ] = 7200,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Evaluate a judge on step-labelled data, for every voting method and number of critiques.

    Each rollout is judged once, with --n critiques and once more greedily; fewer critiques are
    drawn from these. Run again, it goes on where it stopped. Each judge needs a folder of its own.
    """
    try:
        varied = _varied(setting)
        sampling = {"n": n, "early_stop": False, "seed": seed, "temperature": temperature, **varied}
        voting = wire.Voting.model_validate({"method": "average", **sampling})
        format_, examples, left_out = read(file)
        chosen = examples[:limit]
        source = _folder(file, out) / "rollouts.jsonl"
        with CreditClient(url, api_key=api_key, batch_size=_BATCH, concurrency=_REQUESTS) as client:
            judge = client.info()
            source.write_text("".join(json.dumps(each.rollout()) + "\n" for each in chosen))
            sampled, seconds = _judge(
                client, source, "sampled", deadline, {"method": "average", **sampling}
            )
            greedy, _ = _judge(client, source, "greedy", deadline, {"method": "greedy", **varied})
    except ValidationError as error:
        console.complain(_COMMAND, first_error(error)[1])
        raise typer.Exit(2) from None
    except (FormatError, FileJobError) as error:
        console.complain(_COMMAND, error)
        raise typer.Exit(2) from None
    except (errors.UnavailableError, errors.DeadlineExceededError) as error:
        console.complain(_COMMAND, f"{error}; run the same command again to go on")
        raise typer.Exit(3) from None
    except errors.CapoError as error:
        console.complain(_COMMAND, error)
        raise typer.Exit(2) from None
    labels = Labels(file.name, format_, chosen, len(examples) - len(chosen), left_out)
    judged = [_judged(*each) for each in zip(chosen, sampled, greedy, strict=True)]
    found = report.build(labels, judge, voting, judged, sampled, seconds, resamples)
    folder = source.parent
    (folder / "report.json").write_text(json.dumps(found, indent=2) + "\n")
    pictures = _draw(found, folder) if draw else []
    if as_json:
        typer.echo(json.dumps(found))
        return
    report.tell(found, folder, pictures)


def _varied(pairs: Sequence[str] | None) -> dict[str, Any]:
    """What `--set` names, by the names of `voting`; values are JSON where they parse as such.

    Raises:
        FormatError: it is not of this form, or cannot be varied here.
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
    """The folder for results, made where it is missing.

    Raises:
        FileJobError: there can be none.
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
    client: CreditClient, source: Path, name: str, deadline: float, voting: Mapping[str, Any]
) -> tuple[list[dict[str, Any]], float | None]:  # fmt: skip
    """The results of all examples, and the seconds that it took if none was there before.

    Raises:
        FileJobError, CapoError: see `FileJob.run`.
        DeadlineExceededError: some are still missing.
    """
    options = {
        "voting": dict(voting), "reward": {"scheme": "process_only"}, "include": ["critiques"],
        "priority": "evaluation",
    }  # fmt: skip
    job = FileJob(source, source.with_name(f"{name}.jsonl"), options)
    fresh, started = not job.results, time.monotonic()
    kept = f"What was judged is in {job.target}; run the same command again to go on."
    with console.stoppable(_COMMAND, kept), console.bar("rollouts") as bar:
        task = bar.add_task(name, total=job.total, completed=job.total - len(job.missing))
        job.run(client, deadline, lambda _: bar.advance(task))
    if job.missing:
        raise errors.DeadlineExceededError(
            f"{len(job.missing)} of {job.total} rollouts are not judged yet"
        )
    results = [json.loads(job.results[number]) for number in sorted(job.results)]
    return results, time.monotonic() - started if fresh else None


def _judged(example: Example, sampled: dict[str, Any], greedy: dict[str, Any]) -> Judged:
    said = sampled.get("critiques", [])
    symbolic = [each for each in said if each.get("critic") == "symbolic"]
    alone = [each for each in greedy.get("critiques", []) if each.get("critic") != "symbolic"]
    return Judged(
        example,
        tuple(_named(each) for each in said if each.get("critic") != "symbolic"),
        _named(alone[0]) if alone else None,
        frozenset(step for each in symbolic for step in each["wrong_steps"]),
        symbolic[0]["weight"] if symbolic else 0,
    )


def _named(critique: dict[str, Any]) -> frozenset[int] | None:
    return frozenset(critique["wrong_steps"]) if critique["valid"] else None


def _draw(found: dict[str, Any], folder: Path) -> list[Path]:
    try:
        return plots.draw(found, folder)
    except ImportError:
        typer.echo("no pictures: they need pip install 'capo-credit[eval]'", err=True)
        return []
