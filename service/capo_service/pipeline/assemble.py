"""Critiques, outcome and suspicion -> the credit of a rollout, as the wire has it."""

from __future__ import annotations

from collections.abc import Sequence

import capo_wire as wire
from capo_service.core import rewards
from capo_service.core.suspicion import capped
from capo_service.core.voting import VoteCount
from capo_service.engine.base import FINISHED_EARLY
from capo_service.pipeline.critics import Ballot
from capo_service.pipeline.errors import NoValidCritiqueError
from capo_service.pipeline.prepare import Prepared


def credited(
    prepared: Prepared,
    options: wire.CreditOptions,
    outcome: wire.Outcome | None,
    ballots: Sequence[Ballot],
) -> wire.Credited:
    """The complete credit of a rollout; its `id` is set later.

    Raises:
        NoValidCritiqueError: no critique could be parsed.
    """
    finished = [b for b in ballots if b.completion.finish_reason != FINISHED_EARLY]
    critiques = [_critique(ballot) for ballot in finished]
    usage = _usage(ballots, len(finished))
    votes = prepared.count_votes([ballot.verdict.wrong for ballot in ballots])
    if not votes.valid:
        reasons = "; ".join(sorted({str(ballot.verdict.reason) for ballot in ballots}))
        raise NoValidCritiqueError(
            f"none of {options.voting.critiques} critiques could be parsed: {reasons[:500]}",
            critiques,
            usage,
        )
    if prepared.symbolic_votes and prepared.false_equations:
        critiques.append(_symbolic_critique(prepared))
    penalties = _penalties(prepared, votes, options.voting.method)
    step_rewards = _step_rewards(prepared, options.reward, outcome, penalties)
    spans = prepared.token_spans
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
                votes=_step_votes(votes, step, options.voting.critiques),
                reward=step_rewards[step],
            )
            for step, span in enumerate(prepared.spans)
        ],
        token_rewards=rewards.token_rewards(step_rewards, spans) if spans is not None else None,
        critiques=critiques,
        response=prepared.response,
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


def _penalties(prepared: Prepared, votes: VoteCount, method: wire.VotingMethod) -> list[float]:
    """The voted penalties; steps that suspicion counts as wrong have 1."""
    penalties = votes.penalties(method)
    for finding in prepared.suspicion:
        if finding.action == "wrong":
            wrong = finding.steps or range(len(penalties))
            penalties = [1.0 if step in wrong else p for step, p in enumerate(penalties)]
    return penalties


def _step_rewards(
    prepared: Prepared,
    reward: wire.Reward,
    outcome: wire.Outcome | None,
    penalties: Sequence[float],
) -> list[float]:
    """The rewards of the scheme; capped steps earn at most the reward of the worst other step."""
    step_rewards = rewards.step_rewards(
        reward.scheme,
        penalties,
        outcome.value if outcome else None,
        reward.w_whole,
        reward.w_process,
    )
    for finding in prepared.suspicion:
        if finding.action == "cap" and finding.steps:
            step_rewards = capped(step_rewards, finding.steps)
    return step_rewards


def _step_votes(votes: VoteCount, step: int, asked: int) -> wire.Votes:
    wrong, valid = votes.on_step(step)
    return wire.Votes(wrong=wrong, valid=valid, asked=asked)


def _usage(ballots: Sequence[Ballot], critiques_run: int) -> wire.Usage:
    return wire.Usage(
        prompt_tokens=sum(b.completion.prompt_tokens for b in ballots),
        cached_tokens=sum(b.completion.cached_tokens for b in ballots),
        completion_tokens=sum(b.completion.completion_tokens for b in ballots),
        thinking_tokens=sum(b.completion.thinking_tokens for b in ballots),
        critiques_run=critiques_run,
    )


def _critique(ballot: Ballot) -> wire.Critique:
    wrong = ballot.verdict.wrong
    return wire.Critique(
        text=ballot.completion.text,
        thinking=ballot.completion.thinking or None,
        thinking_tokens=ballot.completion.thinking_tokens,
        thinking_truncated=ballot.completion.thinking_truncated,
        wrong_steps=None if wrong is None else sorted(wrong),
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
