"""Critiques, outcome and suspicion -> the credit of a rollout, as the wire has it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import capo_wire as wire
from capo_service.core import rewards
from capo_service.core.criteria import VotedCriterion
from capo_service.core.exact_votes import ExactVotes
from capo_service.core.suspicion import capped
from capo_service.core.turns import Trajectory
from capo_service.core.verdicts.base import Verdict
from capo_service.core.voting import JoinedVotes, WindowVotes
from capo_service.engine.base import FINISHED_EARLY
from capo_service.pipeline.criteria import (
    added_rewards,
    credited_criteria,
    criterion_answers,
    voted_criteria,
)
from capo_service.pipeline.critics import Ballot
from capo_service.pipeline.errors import NoValidCritiqueError
from capo_service.pipeline.exact_answer import exact_critiques, exact_reading, exact_votes
from capo_service.pipeline.prepared import Prepared

_FIRST_ERROR = "first_error"  # form of a verdict that names only the first wrong step


def credited(
    prepared: Prepared,
    options: wire.CreditOptions,
    outcome: wire.Outcome | None,
    ballots: Sequence[Ballot],
) -> wire.Credited:
    """The credit of a rollout. Its `id` is set later, and its token rewards where they are sent.

    Raises:
        NoValidCritiqueError: no critique could be parsed.
    """
    finished = [b for b in ballots if b.completion.finish_reason != FINISHED_EARLY]
    windows = prepared.windows
    exact = exact_votes(ballots)
    critiques = [
        *exact_critiques(prepared, exact),
        *(_critique(each, prepared) for each in finished if each.exact is None or _failed(each)),
    ]
    usage = _usage(ballots, len(finished))
    votes = _votes(prepared, ballots, exact)
    if votes.silent:
        raise NoValidCritiqueError(
            _why_none_is_valid(prepared, options.voting.critiques, votes.silent[0], ballots),
            critiques,
            usage,
        )
    if prepared.symbolic_votes and prepared.false_equations:
        critiques.append(_symbolic_critique(prepared))
    penalties = _penalties(prepared, votes, options.voting.method)
    criteria, asked = prepared.criteria, prepared.asked
    voted = voted_criteria(criteria, asked, votes, options.voting.method)
    step_rewards = _step_rewards(prepared, options.reward, outcome, penalties, voted)
    spans, on_steps = prepared.token_spans, votes.on_steps()
    others = prepared.trajectory
    shares = [share for each in exact.values() for share in each.shares]
    return wire.Credited(
        id="",
        outcome=outcome,
        steps=[
            wire.Step(
                index=step,
                span=span,
                token_span=spans[step] if spans is not None else None,
                wrong=penalties[step] >= 0.5,
                penalty=penalties[step],
                votes=_step_votes(
                    on_steps[step], options.voting.critiques, shares[step] if shares else None
                ),
                reward=step_rewards[step],
                turn=others.turn_of[step] if others else 0,
            )
            for step, span in enumerate(prepared.spans)
        ],
        observations=_observations(others),
        criteria=credited_criteria(criteria, asked, voted, votes, options),
        exact=exact_reading(exact),
        critiques=critiques,
        response=prepared.response,
        windows=len(windows),
        usage=usage,
        suspicion=[
            wire.Suspicion(
                reason=finding.reason,
                detail=finding.detail,
                action=finding.action,
                steps=sorted(finding.steps) if finding.steps is not None else None,
            )
            for finding in prepared.suspicion
        ],
    )


def with_token_rewards(result: wire.Credited, count: int) -> wire.Credited:
    """A result with one reward for each of `count` tokens; itself, if no tokens were sent."""
    spans = [step.token_span for step in result.steps if step.token_span is not None]
    if result.token_rewards is not None or len(spans) < len(result.steps):
        return result
    by_token = rewards.token_rewards([step.reward for step in result.steps], spans, count)
    return result.model_copy(update={"token_rewards": by_token})


def _observations(others: Trajectory | None) -> list[wire.Observation] | None:
    if others is None:
        return None
    pairs = zip(others.observations, others.left_out, strict=True)
    return [wire.Observation(span=span, left_out=left_out) for span, left_out in pairs]


def _failed(ballot: Ballot) -> bool:
    return ballot.verdict.wrong is None


def _votes(
    prepared: Prepared, ballots: Sequence[Ballot], exact: Mapping[int, ExactVotes]
) -> JoinedVotes:
    """The votes of each window."""
    verdicts: list[list[Verdict]] = [[] for _ in prepared.windows]
    for ballot in ballots:
        verdicts[ballot.window].append(ballot.verdict)
    counts: list[WindowVotes] = [
        exact.get(number) or window.count_votes(verdicts[number])
        for number, window in enumerate(prepared.windows)
    ]
    task = prepared.windows[0].task
    return JoinedVotes(counts, task is not None and task.shape.name == _FIRST_ERROR)


def _why_none_is_valid(
    prepared: Prepared, asked: int, number: int, ballots: Sequence[Ballot]
) -> str:
    given = {str(ballot.verdict.reason) for ballot in ballots if ballot.window == number}
    where = ""
    if prepared.parts:
        window = prepared.parts[number]
        last = window.first_step + len(window.spans) - 1
        where = f" of window {number} (steps {window.first_step} to {last})"
    reasons = "; ".join(sorted(given))
    return f"none of {asked} critiques{where} could be parsed: {reasons[:500]}"


def _penalties(prepared: Prepared, votes: JoinedVotes, method: wire.VotingMethod) -> list[float]:
    """The voted penalties; steps that suspicion counts as wrong have 1."""
    wrong = _wrong_by_suspicion(prepared)
    return [1.0 if step in wrong else p for step, p in enumerate(votes.penalties(method))]


def _wrong_by_suspicion(prepared: Prepared) -> set[int]:
    """The steps that suspicion counts as wrong, whatever the votes."""
    wrong: set[int] = set()
    for finding in prepared.suspicion:
        if finding.action == "wrong":
            wrong.update(finding.steps or range(len(prepared.spans)))
    return wrong


def _step_rewards(
    prepared: Prepared,
    reward: wire.Reward,
    outcome: wire.Outcome | None,
    penalties: Sequence[float],
    voted: Sequence[VotedCriterion],
) -> list[float]:
    """The rewards of the scheme; capped steps earn at most the reward of the worst other step."""
    step_rewards = rewards.step_rewards(
        reward.scheme,
        penalties,
        outcome.value if outcome else None,
        reward.w_whole,
        reward.w_process,
        added_rewards(voted, reward, len(penalties), _wrong_by_suspicion(prepared)),
    )
    for finding in prepared.suspicion:
        if finding.action == "cap" and finding.steps:
            step_rewards = capped(step_rewards, finding.steps)
    return step_rewards


def _step_votes(votes: tuple[int, int], asked: int, share: float | None) -> wire.Votes:
    wrong, valid = votes
    return wire.Votes(wrong=wrong, valid=valid, asked=asked, share=share)


def _usage(ballots: Sequence[Ballot], critiques_run: int) -> wire.Usage:
    return wire.Usage(
        prompt_tokens=sum(b.completion.prompt_tokens for b in ballots),
        cached_tokens=sum(b.completion.cached_tokens for b in ballots),
        completion_tokens=sum(b.completion.completion_tokens for b in ballots),
        thinking_tokens=sum(b.completion.thinking_tokens for b in ballots),
        critiques_run=critiques_run,
    )


def _critique(ballot: Ballot, prepared: Prepared) -> wire.Critique:
    """A critique, with the numbers of the rollout for the steps of its window."""
    window, wrong = prepared.windows[ballot.window], ballot.verdict.wrong
    first_step = window.first_step
    return wire.Critique(
        text=ballot.completion.text,
        thinking=ballot.completion.thinking or None,
        thinking_tokens=ballot.completion.thinking_tokens,
        thinking_truncated=ballot.completion.thinking_truncated,
        window=ballot.window,
        judged_steps=(first_step, first_step + len(window.spans)) if prepared.parts else None,
        wrong_steps=None if wrong is None else sorted(first_step + step for step in wrong),
        criteria=criterion_answers(
            window.criteria, window.asked, ballot.verdict.criteria, first_step
        ),
        valid=wrong is not None,
        finish_reason=ballot.completion.finish_reason,
        reason=ballot.verdict.reason,
    )


def _symbolic_critique(prepared: Prepared) -> wire.Critique:
    false = prepared.false_equations
    return wire.Critique(
        text="\n".join(f"Step {step}: {equation}" for step, equation in false.items()),
        wrong_steps=sorted(false),
        valid=True,
        finish_reason="stop",
        critic="symbolic",
        weight=prepared.symbolic_votes,
    )
