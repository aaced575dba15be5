"""Has labelled solutions judged, once for each way to ask the judge; resumable."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import capo_wire as wire
from capo_client import errors
from capo_client.cli import console
from capo_client.cli.evaluate.examples import LabelledExample
from capo_client.cli.evaluate.measures import JudgedExample
from capo_client.cli.evaluate.variants import Variant
from capo_client.cli.file_job import FileJob
from capo_client.client import CreditClient

COMMAND = "capo eval"


@dataclass(frozen=True, slots=True)
class Asked:
    """One way to ask the judge.

    Attributes:
        variant: its style and thinking budget, if the command names them.
        voting: the options of its sampled critiques.
        sampled: their fields that are sent.
        greedy: those of the greedy critique.
    """

    variant: Variant
    voting: wire.Voting
    sampled: dict[str, Any]
    greedy: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Results:
    """The results of all examples. `seconds`: how long sampling took; None for a resumed run."""

    sampled: list[dict[str, Any]]
    greedy: list[dict[str, Any]]
    seconds: float | None


def ask(variant: Variant, sampling: Mapping[str, Any], varied: Mapping[str, Any]) -> Asked:
    """How to ask the judge for the critiques of a variant.

    Args:
        variant: the style and thinking budget.
        sampling: options of the sampled critiques alone.
        varied: options of all critiques.

    Raises:
        ValidationError: an option has a value that does not exist.
    """
    fields = {**varied, **variant.voting()}
    sampled = {"method": "average", **sampling, **fields}
    voting = wire.Voting.model_validate(sampled)
    return Asked(variant, voting, sampled, {"method": "greedy", **fields})


def earlier_results(folder: Path) -> list[Path]:
    """The files of results in a folder, of every style and thinking budget."""
    names = ("sampled.jsonl", "greedy.jsonl")
    return [path for name in names for path in (*folder.glob(name), *folder.glob(f"*/{name}"))]


def judge(
    client: CreditClient, source: Path, folder: Path, asked: Asked, timeout: float
) -> Results:
    """The results of all examples.

    Raises:
        FileJobError, CapoError: see `FileJob.run`.
        DeadlineExceededError: some results are missing.
    """
    name = asked.variant.name
    target = folder / name
    sampled, seconds = _run(
        client, source, target / "sampled.jsonl", f"{name} sampled".strip(), timeout, asked.sampled
    )
    greedy, _ = _run(
        client, source, target / "greedy.jsonl", f"{name} greedy".strip(), timeout, asked.greedy
    )
    return Results(sampled, greedy, seconds)


def _run(
    client: CreditClient,
    source: Path,
    target: Path,
    name: str,
    timeout: float,
    voting: Mapping[str, Any],
) -> tuple[list[dict[str, Any]], float | None]:
    """The results of all examples, and the seconds it took; None for a resumed run."""
    options = {
        "voting": dict(voting),
        "reward": {"scheme": "process_only"},
        "include": ["critiques"],
        "priority": "evaluation",
    }
    job = FileJob(source, target, options)
    is_fresh, started = not job.results, time.monotonic()
    note = f"Results so far are in {job.target}; run the same command again to resume."
    with console.stoppable(COMMAND, note), console.bar("rollouts") as bar:
        task = bar.add_task(name, total=job.total, completed=job.total - len(job.missing))
        job.run(client, timeout, lambda _: bar.advance(task))
    if job.missing:
        raise errors.DeadlineExceededError(
            f"{len(job.missing)} of {job.total} rollouts are not judged yet"
        )
    results = [json.loads(job.results[number]) for number in sorted(job.results)]
    return results, time.monotonic() - started if is_fresh else None


def judged(examples: Sequence[LabelledExample], results: Results) -> list[JudgedExample]:
    """Each example with its critiques."""
    rows = zip(examples, results.sampled, results.greedy, strict=True)
    return [_judged(*row) for row in rows]


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
