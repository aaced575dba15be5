"""Credit on a terminal: a table of steps and votes, and one coloured block for each token."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from capo_wire import Credited, CriterionCredit, Failed, Observation, Step

_LEVELS = "▁▂▃▄▅▆▇█"
_COLOURS = ("red3", "dark_orange", "gold1", "green3")  # -1, 0, +1, +2 with the default weights
_LONGEST_STEP = 160  # characters
_NOT_OWN = "·"  # a token that the policy did not write


def panel(
    question: str,
    response: str,
    result: Credited | Failed,
    bounds: tuple[float, float],
    known_wrong: Sequence[int] | None = None,
) -> Panel:
    """One rollout.

    Args:
        question: its question.
        response: its response.
        result: its result.
        bounds: lowest and highest reward of the batch, for the colours.
        known_wrong: the indices of its wrong steps, if they are known.
    """
    title = Text(f" {result.id} ", style="bold")
    body: list[RenderableType] = [Text(question, style="italic"), Text()]
    if isinstance(result, Failed):
        body.append(Text(f"{result.error.status} {result.error.detail}", style="red"))
        return Panel(Group(*body), title=title, title_align="left", border_style="red")
    others = result.observations or ()
    body += [steps_table(response, result.steps, bounds, known_wrong, others), Text()]
    if result.token_rewards is not None:
        body.append(heat_strip(result.token_rewards, bounds, result.steps))
    for suspicion in result.suspicion:
        effect = "" if suspicion.action == "flag" else f" (counted: {suspicion.action})"
        reason = suspicion.reason.replace("_", " ")
        body.append(Text(f"suspicious, {reason}: {suspicion.detail}{effect}", style="yellow"))
    if result.criteria:
        body += [criteria_table(result.criteria), Text()]
    body.append(_footer(result))
    return Panel(Group(*body), title=title, title_align="left")


def steps_table(
    response: str,
    steps: Sequence[Step],
    bounds: tuple[float, float],
    known_wrong: Sequence[int] | None = None,
    observations: Sequence[Observation] = (),
) -> Table:
    """Each step with its votes, the reward of each of its tokens and, if known, the truth.

    Turns of a trajectory are numbered, and what others wrote stands between them, dimmed.
    """
    in_turns = len({step.turn for step in steps}) > 1
    table = Table(box=None, padding=(0, 1), expand=True)
    if in_turns:
        table.add_column("turn", justify="right", style="dim")
    table.add_column("#", justify="right", style="dim")
    table.add_column("step", ratio=1)
    table.add_column("votes", no_wrap=True)
    table.add_column("reward", justify="right", no_wrap=True)
    table.add_column("tokens", justify="right", no_wrap=True)
    if known_wrong is not None:
        table.add_column("truth", no_wrap=True)
    waiting = list(observations)
    turn = None
    for step in steps:
        while waiting and waiting[0].span[1] <= step.span[0]:
            table.add_row(*_observed(response, waiting.pop(0), in_turns))
        row: list[RenderableType] = [
            *([str(step.turn) if step.turn != turn else ""] if in_turns else []),
            str(step.index),
            Text(_one_line(response, step.span), style="red" if step.wrong else ""),
            _votes(step),
            Text(f"{step.reward:+.2f}" if step.reward else "0", style=colour(step.reward, bounds)),
            Text(_tokens(step), style="dim"),
        ]
        if known_wrong is not None:
            is_wrong = step.index in known_wrong
            row.append(Text("wrong" if is_wrong else "right", style="red" if is_wrong else "dim"))
        table.add_row(*row)
        turn = step.turn
    for each in waiting:
        table.add_row(*_observed(response, each, in_turns))
    return table


def _observed(response: str, observation: Observation, in_turns: bool) -> list[RenderableType]:
    left_out = observation.left_out
    note = f" ({left_out:,} characters not shown to the judge)" if left_out else ""
    text = f"observation: {_one_line(response, observation.span)}{note}"
    return [*([""] if in_turns else []), "", Text(text, style="dim italic")]


def _one_line(response: str, span: tuple[int, int]) -> str:
    text = " ".join(response[span[0] : span[1]].split())
    return text if len(text) <= _LONGEST_STEP else text[: _LONGEST_STEP - 1] + "…"


def criteria_table(criteria: Sequence[CriterionCredit]) -> Table:
    """Each criterion with the vote on it, and what it adds to rewards."""
    table = Table(box=None, padding=(0, 1))
    for column in ("criterion", "kind", "holds", "at", "votes", "reward"):
        table.add_column(column, no_wrap=column != "criterion")
    for each in criteria:
        if each.label is None:
            table.add_row(Text(each.id), each.kind, Text("not judged", style="dim"), "", "", "")
            continue
        bad = each.holds == (each.kind == "pitfall") and each.kind != "bonus"
        place = "whole" if each.step is None else f"step {each.step}"
        table.add_row(
            Text(each.id),
            each.kind,
            Text("yes" if each.holds else "no", style="red" if bad else ""),
            place if each.share else "",
            f"{each.votes.holds}/{each.votes.valid}",
            f"{each.reward:+.2f}" if each.reward else "0",
        )
    return table


def heat_strip(
    rewards: Sequence[float], bounds: tuple[float, float], steps: Sequence[Step] = ()
) -> Text:
    """One block per token, with its reward as colour and height.

    A token outside the steps is not the policy's and has a dot; without steps, none is outside.
    """
    strip = Text("reward of each token  ", style="dim")
    spans = [step.token_span for step in steps if step.token_span is not None]
    own = [not spans] * len(rewards)
    for start, end in spans:
        own[start:end] = [True] * (end - start)
    for (reward, is_own), run in groupby(zip(rewards, own, strict=True)):
        block = _LEVELS[_level(reward, bounds, len(_LEVELS))] if is_own else _NOT_OWN
        strip.append(block * len(list(run)), style=colour(reward, bounds) if is_own else "dim")
    return strip


def colour(reward: float, bounds: tuple[float, float]) -> str:
    """A colour from red (lowest reward of the batch) to green (highest)."""
    return _COLOURS[_level(reward, bounds, len(_COLOURS))]


def _level(reward: float, bounds: tuple[float, float], levels: int) -> int:
    low, high = bounds
    share = 1.0 if high <= low else (reward - low) / (high - low)
    return round(min(max(share, 0.0), 1.0) * (levels - 1))


def _tokens(step: Step) -> str:
    return "" if step.token_span is None else str(step.token_span[1] - step.token_span[0])


def _votes(step: Step) -> Text:
    votes = step.votes
    if votes.share is not None:
        return Text(f"{votes.share:.0%}", style="red" if step.wrong else "green")
    dots = "●" * votes.wrong + "○" * (votes.valid - votes.wrong)
    skipped = "·" * (votes.asked - votes.valid)
    return Text.assemble(
        (dots, "red" if step.wrong else "green"),
        (skipped, "dim"),
        f" {votes.wrong}/{votes.valid}",
    )


def _footer(result: Credited) -> Text:
    usage = result.usage
    parts = []
    if result.outcome is not None:
        source = result.outcome.source.replace("_", "-")
        right = {1.0: "right answer", 0.0: "wrong answer"}.get(
            result.outcome.value, f"outcome {result.outcome.value:g}"
        )
        parts.append(f"{right} ({source})")
    parts.append(f"{usage.critiques_run} critiques")
    if result.windows > 1:
        parts.append(f"{result.windows} windows")
    thoughts = f" ({usage.thinking_tokens} of thoughts)" if usage.thinking_tokens else ""
    parts.append(
        f"{usage.completion_tokens} completion tokens{thoughts}, {usage.prompt_tokens} prompt "
        f"tokens ({usage.cached_tokens} from cache)"
    )
    thought = [each for each in result.critiques or () if each.thinking_tokens]
    if truncated := sum(each.thinking_truncated for each in thought):
        parts.append(f"{truncated} of {len(thought)} thoughts reached the budget")
    return Text(" · ".join(parts), style="dim")
