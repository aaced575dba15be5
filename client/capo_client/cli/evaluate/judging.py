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
        exact: those of exact votes; None if they are not asked for.
    """

    variant: Variant
    voting: wire.Voting
    sampled: dict[str, Any]
    greedy: dict[str, Any]
    exact: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Results:
    """The results of all examples.

    Attributes:
        sampled: of sampled critiques.
        greedy: of the greedy critique.
        seconds: how long sampling took; None for a resumed run.
        exact: of exact votes; None if they were not asked for.
    """

    sampled: list[dict[str, Any]]
    greedy: list[dict[str, Any]]
    seconds: float | None
    exact: list[dict[str, Any]] | None = None


def ask(
    variant: Variant,
    sampling: Mapping[str, Any],
    varied: Mapping[str, Any],
    with_exact: bool = False,
) -> Asked:
    """How to ask the judge for the critiques of a variant.

    Args:
        variant: the style and thinking budget.
        sampling: options of the sampled critiques alone.
        varied: options of all critiques.
        with_exact: whether to ask for exact votes too.

    Raises:
        ValidationError: an option has a value that does not exist.
    """
    fields = {**varied, **variant.voting()}
    sampled = {"method": "average", **sampling, **fields}
    voting = wire.Voting.model_validate(sampled)
    exact = None
    if with_exact:
        temperature = {"temperature": sampling.get("temperature")}
        exact = {"method": "majority", "exact": True, **temperature, **fields}
        wire.Voting.model_validate(exact)
    return Asked(variant, voting, sampled, {"method": "greedy", **fields}, exact)


def earlier_results(folder: Path) -> list[Path]:
    """The files of results in a folder, of every style and thinking budget."""
    names = ("sampled.jsonl", "greedy.jsonl", "exact.jsonl")
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
    exact = None
    if asked.exact is not None:
        exact, _ = _run(
            client, source, target / "exact.jsonl", f"{name} exact".strip(), timeout, asked.exact
        )
    return Results(sampled, greedy, seconds, exact)


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


def exact_wrong_steps(results: Sequence[Mapping[str, Any]]) -> list[frozenset[int] | None]:
    """The steps that exact votes call wrong; None where the service returned an error."""
    return [
        frozenset(step["index"] for step in result["steps"] if step["wrong"])
        if result["status"] == "ok"
        else None
        for result in results
    ]


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
