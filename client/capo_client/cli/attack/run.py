"""`capo attack`: send the corpus to a running service, and count the outcomes by family."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any

import typer

import capo_wire as wire
from capo_client.cli import console
from capo_client.cli.attack.corpus import SOLUTIONS, Attack, TargetSolution, attacks, control
from capo_client.cli.attack.payloads import FAMILIES
from capo_client.cli.attack.structure import broken
from capo_client.cli.exit_codes import FAILURES, USAGE
from capo_client.cli.options import (
    DEFAULT_CRITIQUES,
    DEFAULT_METHOD,
    ApiKeyOption,
    CritiquesOption,
    JsonOption,
    MethodOption,
    SeedOption,
    UrlOption,
)
from capo_client.client import CreditClient

_REFUSALS = range(400, 500)


@dataclass(slots=True)
class Tally:
    """The outcomes of a family's attacks.

    Attributes:
        attacks: their number.
        refused: refused with a 4xx and a reason.
        failed: failed in any other way; must be 0.
        broken: credited, and the result violates the HTTP API; must be 0.
        known: credited, and the judge finds their error without the attack (without a solution:
            all that are credited).
        fooled: known ones whose error is not found (without a solution: no step is wrong).
        changed: credited, and the verdict on the error differs from that without the attack.
        suspected: credited with a suspicion.
    """

    family: str
    attacks: int = 0
    refused: int = 0
    failed: int = 0
    broken: int = 0
    known: int = 0
    fooled: int = 0
    changed: int = 0
    suspected: int = 0

    @property
    def rate(self) -> float | None:
        """Share of the known errors that the attacks hide; None if no error is known."""
        return self.fooled / self.known if self.known else None


def finds(attack: Attack, result: wire.Credited) -> bool:
    """Whether the judge calls the error wrong; for an attack without one, any step."""
    if attack.wrong is None:
        return any(step.wrong for step in result.steps)
    start, end = attack.wrong
    return any(s.wrong for s in result.steps if s.span[0] < end and start < s.span[1])


def tally(
    made: Sequence[tuple[Attack, bool]], results: Sequence[wire.Credited | wire.Failed]
) -> dict[str, Tally]:
    """Count results by family.

    Args:
        made: each attack, and whether the judge finds its error without it.
        results: one for each attack.
    """
    tallies = {family: Tally(family) for family in FAMILIES}
    for (attack, known), result in zip(made, results, strict=True):
        count = tallies[attack.family]
        count.attacks += 1
        if isinstance(result, wire.Failed):
            if result.error.status in _REFUSALS and result.error.status != 429:
                count.refused += 1
            else:
                count.failed += 1
            continue
        count.broken += broken(attack.rollout(), result) is not None
        count.suspected += bool(result.suspicion)
        known = known or attack.wrong is None
        caught = finds(attack, result)
        count.known += known
        count.fooled += known and not caught
        count.changed += caught != known
    return tallies


def attack(
    url: UrlOption = None,
    api_key: ApiKeyOption = None,
    family: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help=f"Attacks to send; repeatable: {', '.join(FAMILIES)}.",
            show_default="all",
        ),
    ] = None,
    method: MethodOption = DEFAULT_METHOD,
    n: CritiquesOption = DEFAULT_CRITIQUES,
    seed: SeedOption = None,
    timeout: Annotated[
        float, typer.Option(metavar="SECONDS", help="Timeout for all attacks, retries included.")
    ] = 7200,
    as_json: JsonOption = False,
) -> None:
    """Attack the judge of a running service, and report how often it is fooled.

    Sends over 300 hostile rollouts. Most contain a solution with a known error, which is also
    judged without the attack. Exits with 1 if the service fails on one or returns an invalid
    result, which is a bug in the service, not in the judge.
    """
    names = family or list(FAMILIES)
    if unknown := sorted(set(names) - FAMILIES.keys()):
        console.complain(
            "capo attack",
            f"unknown --family {', '.join(unknown)}; choose from: {', '.join(FAMILIES)}",
        )
        raise typer.Exit(USAGE)
    chosen = [(attack, solution) for attack, solution in attacks() if attack.family in names]
    options: dict[str, Any] = {
        "voting": {"method": method, "seed": seed} | ({} if method == "greedy" else {"n": n}),
        "include": ["token_rewards", "critiques"],
    }
    stoppable = console.stoppable("capo attack", "Results of an unfinished run are not kept.")
    with (
        console.explained("capo attack"),
        CreditClient(url, api_key=api_key) as client,
        stoppable,
        console.bar("attacks") as bar,
    ):
        started, judge = time.monotonic(), client.info().model
        clean = _controls(attack.is_trajectory for attack, _ in chosen)
        task = bar.add_task("attacking", total=len(chosen) + len(clean))
        before = 0

        def advance(done: int, _: int) -> None:
            bar.update(task, completed=before + done)

        controls = client.credit(
            [each.rollout() for each in clean.values()],
            deadline=timeout,
            progress=advance,
            **options,
        )
        before = len(clean)
        rollouts = [attack.rollout() for attack, _ in chosen]
        left = max(timeout - (time.monotonic() - started), 0.0)
        results = client.credit(rollouts, deadline=left, progress=advance, **options)
    known = {
        which: isinstance(result, wire.Credited) and finds(each, result)
        for (which, each), result in zip(clean.items(), controls, strict=True)
    }
    found_alone = [known[solution, False] for solution in SOLUTIONS]
    made = [(attack, known[solution, attack.is_trajectory]) for attack, solution in chosen]
    tallies = [count for count in tally(made, list(results)).values() if count.family in names]
    if as_json:
        report = _report(judge, found_alone, tallies, made, list(results))
        typer.echo(json.dumps(report))
    else:
        _show(judge, found_alone, tallies)
    if any(count.failed or count.broken for count in tallies):
        raise typer.Exit(FAILURES)


def _controls(are_trajectories: Iterable[bool]) -> dict[tuple[TargetSolution, bool], Attack]:
    """The solutions without attacks, in the forms that the attacks have."""
    forms = [False, True] if any(are_trajectories) else [False]
    return {(solution, form): control(solution, form) for form in forms for solution in SOLUTIONS}


def _report(
    judge: str,
    found_alone: list[bool],
    tallies: Sequence[Tally],
    made: Sequence[tuple[Attack, bool]],
    results: Sequence[wire.Credited | wire.Failed],
) -> dict[str, Any]:
    lines = []
    for (attack, known), result in zip(made, results, strict=True):
        line: dict[str, Any] = {"attack": attack.name, "error_known": known}
        if isinstance(result, wire.Failed):
            line |= {"status": result.error.status, "detail": result.error.detail}
        else:
            line |= {
                "status": 200,
                "found": finds(attack, result),
                "broken": broken(attack.rollout(), result),
                "suspicion": [suspicion.reason for suspicion in result.suspicion],
            }
        lines.append(line)
    table = [asdict(count) | {"rate": count.rate} for count in tallies]
    return {"model": judge, "found_alone": found_alone, "families": table, "attacks": lines}


def _show(judge: str, found_alone: list[bool], tallies: Sequence[Tally]) -> None:
    total = Tally("all")
    for count in tallies:
        for name in Tally.__dataclass_fields__.keys() - {"family"}:
            setattr(total, name, getattr(total, name) + getattr(count, name))
    rows = [_row(count) for count in (*tallies, total)]
    found, solutions = sum(found_alone), len(found_alone)
    typer.echo(f"{judge} finds the error of {found} of {solutions} solutions without an attack")
    console.show(list(rows[0]), [list(row.values()) for row in rows])


def _row(count: Tally) -> dict[str, str]:
    """The cells of a family by the names of their columns."""
    return {
        "family": count.family,
        "attacks": str(count.attacks),
        "refused": str(count.refused),
        "known": str(count.known),
        "fooled": str(count.fooled),
        "rate": "-" if count.rate is None else f"{count.rate:.0%}",
        "changed": str(count.changed),
        "suspected": str(count.suspected),
        "broken": str(count.broken + count.failed),
    }
