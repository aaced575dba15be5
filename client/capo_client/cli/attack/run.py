"""The corpus through a running service, and what came of it, by family."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Annotated, Any

import typer

import capo_wire as wire
from capo_client.cli import console
from capo_client.cli.attack.corpus import SOLUTIONS, Attack, attacks, control
from capo_client.cli.attack.payloads import FAMILIES
from capo_client.client import CreditClient

_REFUSALS = range(400, 500)


@dataclass(slots=True)
class Tally:
    """What came of a family's attacks.

    Attributes:
        attacks: how many there are.
        refused: answered by a 4xx, with its reason.
        failed: not answered as the wire says; must be 0.
        broken: credited against the structure's promises; must be 0.
        known: credited, and their error is one that the judge finds without the attack (of those
            without a solution: all).
        fooled: of these, their error is not found; of those without a solution: no step is wrong.
        changed: credited, and the judge says of the error something else than without the attack.
        suspected: credited with a reason for suspicion.
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
        """Share of the known errors that an attack hides; None where none was known."""
        return self.fooled / self.known if self.known else None


def broken(rollout: wire.Rollout, result: wire.Credited) -> str | None:
    """What of the structure does not hold, if anything: steps, votes, one reward for each token."""
    response, offsets = rollout.response or "", rollout.token_offsets or []
    steps, rewards = result.steps, result.token_rewards or []
    spans = [step.span for step in steps]
    if [step.index for step in steps] != list(range(len(steps))):
        return "steps are not numbered from 0"
    tiles = spans and spans[0][0] == 0 and spans[-1][1] == len(response)
    if not tiles or any(a[1] != b[0] for a, b in pairwise(spans)):
        return "steps do not tile the response"
    if len(rewards) != len(offsets):
        return f"{len(rewards)} rewards for {len(offsets)} tokens"
    if any(set(rewards[slice(*step.token_span or ())]) - {step.reward} for step in steps):
        return "a token has another reward than its step"
    owned = sum(stop - start for start, stop in (step.token_span or (0, 0) for step in steps))
    if owned != len(offsets):
        return "a token belongs to no step, or to two"
    for critique in result.critiques or ():
        named = critique.wrong_steps or []
        if named != sorted(set(named)) or any(not 0 <= step < len(steps) for step in named):
            return f"a critique names steps {named}"
    return None


def finds(attack: Attack, result: wire.Credited) -> bool:
    """Whether the judge calls the error wrong; without one, whether it calls any step wrong."""
    if attack.wrong is None:
        return any(step.wrong for step in result.steps)
    start, end = attack.wrong
    return any(s.wrong for s in result.steps if s.span[0] < end and start < s.span[1])


def tally(
    made: Sequence[tuple[Attack, bool]], results: Sequence[wire.Credited | wire.Failed]
) -> dict[str, Tally]:
    """Count results by family. `made`: each attack, and whether its error is found without it."""
    found = {family: Tally(family) for family in FAMILIES}
    for (attack, known), result in zip(made, results, strict=True):
        count = found[attack.family]
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
    return found


def attack(
    url: Annotated[
        str | None,
        typer.Option(help="URL of the service.", envvar="CAPO_URL", show_default="this machine's"),
    ] = None,
    api_key: Annotated[
        str | None, typer.Option(help="API key (Authorization: Bearer).", envvar="CAPO_API_KEY")
    ] = None,
    family: Annotated[
        list[str] | None,
        typer.Option(help=f"Attacks to send; repeatable: {', '.join(FAMILIES)}. Default: all."),
    ] = None,
    method: Annotated[str, typer.Option(help="Voting method.")] = "majority",
    n: Annotated[int, typer.Option(help="Critiques for each rollout.")] = 4,
    seed: Annotated[int | None, typer.Option(help="Random seed for the judge.")] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object: the table, and every attack.")
    ] = False,
) -> None:
    """Attack the judge of a running service, and tell how often it was fooled.

    Over 200 hostile rollouts, most of them around a solution with a known error that the judge is
    first asked about alone. Exits with 1 if the service failed at one, or broke a promise of its
    structure: then the fault is the service's, not the judge's.
    """
    names = family or list(FAMILIES)
    if unknown := sorted(set(names) - FAMILIES.keys()):
        console.complain(
            "capo attack",
            f"unknown --family {', '.join(unknown)}; choose from: {', '.join(FAMILIES)}",
        )
        raise typer.Exit(2)
    made = [(each, solution) for each, solution in attacks() if each.family in names]
    options: dict[str, Any] = {
        "voting": {"method": method, "seed": seed} | ({} if method == "greedy" else {"n": n}),
        "include": ["token_rewards", "critiques"],
    }
    stoppable = console.stoppable("capo attack", "Nothing is kept of an unfinished table.")
    with (
        console.explained("capo attack"),
        CreditClient(url, api_key=api_key) as client,
        stoppable,
        console.bar("attacks") as bar,
    ):
        judge = client.info().model
        task = bar.add_task("attacking", total=len(made) + len(SOLUTIONS))
        before = 0

        def advance(done: int, _: int) -> None:
            bar.update(task, completed=before + done)

        controls = client.credit(
            [control(each).rollout() for each in SOLUTIONS], progress=advance, **options
        )
        before = len(SOLUTIONS)
        rollouts = [each.rollout() for each, _ in made]
        results = client.credit(rollouts, deadline=7200, progress=advance, **options)
    alone = {
        solution: isinstance(result, wire.Credited) and finds(control(solution), result)
        for solution, result in zip(SOLUTIONS, controls, strict=True)
    }
    known = [(each, alone[solution]) for each, solution in made]
    found = {name: each for name, each in tally(known, list(results)).items() if name in names}
    if as_json:
        typer.echo(json.dumps(_as_json(judge, alone.values(), found, known, list(results))))
    else:
        _show(judge, alone, found)
    if any(count.failed or count.broken for count in found.values()):
        raise typer.Exit(1)


def _as_json(
    judge: str, alone: Any, found: dict[str, Tally], made: Sequence[tuple[Attack, bool]],
    results: Sequence[wire.Credited | wire.Failed],
) -> dict[str, Any]:  # fmt: skip
    each = []
    for (one, known), result in zip(made, results, strict=True):
        line: dict[str, Any] = {"attack": one.name, "error_known": known}
        if isinstance(result, wire.Failed):
            line |= {"status": result.error.status, "detail": result.error.detail}
        else:
            line |= {
                "status": 200, "found": finds(one, result), "broken": broken(one.rollout(), result),
                "suspicion": [suspicion.reason for suspicion in result.suspicion],
            }  # fmt: skip
        each.append(line)
    table = [asdict(count) | {"rate": count.rate} for count in found.values()]
    return {"model": judge, "found_alone": list(alone), "families": table, "attacks": each}


def _show(judge: str, alone: dict[Any, bool], found: dict[str, Tally]) -> None:
    headers = ("family", "attacks", "refused", "known", "fooled", "rate", "changed", "suspected",
               "broken")  # fmt: skip
    total = Tally("all")
    for count in found.values():
        for name in Tally.__dataclass_fields__.keys() - {"family"}:
            setattr(total, name, getattr(total, name) + getattr(count, name))
    rows = []
    for count in (*found.values(), total):
        rate = "-" if count.rate is None else f"{count.rate:.0%}"
        numbers = (count.attacks, count.refused, count.known, count.fooled, rate, count.changed,
                   count.suspected, count.broken + count.failed)  # fmt: skip
        rows.append((count.family, *map(str, numbers)))
    caught = sum(alone.values())
    typer.echo(f"{judge} finds the error of {caught} of {len(alone)} solutions without an attack")
    console.show(headers, rows)
