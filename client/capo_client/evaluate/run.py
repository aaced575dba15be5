"""`capo eval`: a running service's judge against labelled steps."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from capo_client import errors, terminal, wire
from capo_client.client import CreditClient
from capo_client.evaluate import measures, plots
from capo_client.evaluate.formats import Example, FormatError, read
from capo_client.evaluate.measures import Judged
from capo_client.filejob import FileJob, FileJobError

_COMMAND = "capo eval"
_FIGURES = ("error_accuracy", "correct_accuracy", "f1", "precision", "recall", "step_f1")


def evaluate(
    file: Annotated[Path, typer.Argument(help="Labelled steps: see `capo_client.evaluate`.")],
    url: Annotated[
        str | None,
        typer.Option(help="The service.", envvar="CAPO_URL", show_default="this machine's"),
    ] = None,
    api_key: Annotated[str | None, typer.Option(help="As Bearer.", envvar="CAPO_API_KEY")] = None,
    n: Annotated[int, typer.Option(min=1, max=64, help="Critiques for each rollout.")] = 16,
    temperature: Annotated[float, typer.Option(help="Of the critiques.")] = 0.7,
    seed: Annotated[int, typer.Option(help="Of critiques, draws and resamples.")] = 0,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of what is judged.", show_default="FILE.eval")
    ] = None,
    resamples: Annotated[int, typer.Option(min=20, help="Of the bootstrap.")] = 1000,
    draw: Annotated[bool, typer.Option("--plots/--no-plots", help="Draw pictures.")] = True,
    deadline: Annotated[float, typer.Option(help="Seconds for a window of rollouts.")] = 7200,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Measure a judge on steps of known worth, over voting methods and numbers of critiques.

    Each rollout is judged once, with --n critiques and once more greedily; fewer critiques are
    drawn from these. Formats: ProcessBench, BIG-Bench Mistake, MR-GSM8K, PRM800K, and JSON lines of
    question, steps, wrong_steps. Runs again where it stopped.
    """
    try:
        format_, examples, left_out = read(file)
        examples = examples[:limit]
        folder = out or file.with_name(file.name + ".eval")
        folder.mkdir(parents=True, exist_ok=True)
        source = folder / "rollouts.jsonl"
        source.write_text("".join(json.dumps(each.rollout()) + "\n" for each in examples))
        with CreditClient(url, api_key=api_key, batch_size=4, concurrency=16) as client:
            judge = client.info()
            sampled, seconds = _judge(client, source, "sampled", deadline, {
                "method": "average", "n": n, "early_stop": False, "seed": seed,
                "temperature": temperature,
            })  # fmt: skip
            greedy, _ = _judge(client, source, "greedy", deadline, {"method": "greedy"})
    except (FormatError, FileJobError) as error:
        terminal.complain(_COMMAND, error)
        raise typer.Exit(2) from None
    except (errors.UnavailableError, errors.DeadlineExceededError) as error:
        terminal.complain(_COMMAND, f"{error}; run the same command again to go on")
        raise typer.Exit(3) from None
    except errors.CapoError as error:
        terminal.complain(_COMMAND, error)
        raise typer.Exit(2) from None
    judged = [_judged(*each) for each in zip(examples, sampled, greedy, strict=True)]
    found = {
        "judge": judge.model, "engine": judge.engine, "style": judge.critique_style,
        "format": format_, "data": file.name, "examples": len(examples), "left_out": left_out,
        "erroneous": sum(each.first_error is not None for each in examples),
        "unjudged": sum(not each.critiques for each in judged),
        "n": n, "temperature": temperature, "seed": seed,
        "table": measures.table(judged, n, resamples, seed),
        "agreement": measures.agreement(judged), "cost": _cost(sampled, seconds, n),
    }  # fmt: skip
    off, bins = measures.calibration(measures.shares(judged))
    found["calibration"] = {"error": off, "bins": bins}
    (folder / "report.json").write_text(json.dumps(found, indent=2) + "\n")
    pictures = _draw(found, folder) if draw else []
    if as_json:
        typer.echo(json.dumps(found))
        return
    _tell(found, folder, pictures)


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
    with terminal.stoppable(_COMMAND, kept), terminal.bar("rollouts") as bar:
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


def _cost(results: Sequence[dict[str, Any]], seconds: float | None, n: int) -> dict[str, Any]:
    total = wire.Usage()
    for result in results:
        if result["status"] == "ok":
            total += wire.Usage(**result["usage"])
    per = total.completion_tokens / max(total.critiques_run, 1)
    return total.model_dump() | {"completion_tokens_per_critique": per, "n": n, "seconds": seconds}


def _draw(found: dict[str, Any], folder: Path) -> list[Path]:
    try:
        return plots.draw(found, folder)
    except ImportError:
        typer.echo("no pictures: they need pip install 'capo-credit[eval]'", err=True)
        return []


def _tell(found: dict[str, Any], folder: Path, pictures: Sequence[Path]) -> None:
    def cell(line: dict[str, Any], name: str) -> str:
        if line[name] is None:
            return "-"
        low, high = line["intervals"][name]
        return f"{line[name]:.3f} [{low:.3f}, {high:.3f}]"

    rows = [
        [line["method"], str(line["k"]), *(cell(line, name) for name in _FIGURES)]
        for line in found["table"]
    ]
    headers = ["method", "k", "finds first error", "clears right ones", "F1", "step precision",
               "step recall", "step F1"]  # fmt: skip
    title = (
        f"{found['judge']} on {found['data']} ({found['format']}): {found['examples']} rollouts, "
        f"{found['erroneous']} with an error; 95% intervals"
    )
    terminal.show(headers, rows, title)
    cost, error, agreed = found["cost"], found["calibration"]["error"], found["agreement"]
    facts = {
        "unjudged rollouts (counted as missed)": found["unjudged"],
        "left out (a blank step)": found["left_out"],
        "calibration error of vote shares": "-" if error is None else f"{error:.3f}",
        "agreement between critiques": "-" if agreed is None else f"{agreed:.3f}",
        "tokens written": f"{cost['completion_tokens']:,} in {cost['critiques_run']:,} critiques",
        "tokens read": f"{cost['prompt_tokens']:,}, {cost['cached_tokens']:,} of them from cache",
        "seconds": "-" if cost["seconds"] is None else f"{cost['seconds']:.1f}",
        "written to": ", ".join([f"{folder / 'report.json'}", *map(str, pictures)]),
    }
    for name, value in facts.items():
        typer.echo(f"{name}: {value}")
