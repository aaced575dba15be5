"""Criteria between the wire and the core: which ones are judged, and what is reported of them."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import capo_wire as wire
from capo_service.core.criteria import VotedCriterion, amounts, kept, rewards_by_step
from capo_service.core.errors import InputError
from capo_service.core.prompt import PromptCriterion
from capo_service.core.verdicts.base import CriterionVerdict
from capo_service.core.verdicts.criteria import label
from capo_service.core.voting import JoinedVotes


def check_criteria(
    rollout: wire.Rollout, scheme: wire.RewardScheme, most: int, most_characters: int
) -> None:
    """Refuse criteria that exceed a limit, and a scheme that lacks them.

    Args:
        rollout: the rollout.
        scheme: the request's reward scheme.
        most: maximum criteria of a rollout (setting max_criteria).
        most_characters: maximum characters of their texts together (setting max_characters).

    Raises:
        InputError: they cannot be judged.
    """
    criteria = rollout.criteria or ()
    if scheme == "criteria" and not criteria:
        raise InputError(
            "reward scheme criteria needs the rollout's field criteria: send some, or use scheme "
            "capo or process_only",
            field="criteria",
        )
    characters = sum(len(criterion.text) for criterion in criteria)
    for count, unit, setting, limit in (
        (len(criteria), "criteria", "max_criteria", most),
        (characters, "characters", "max_characters", most_characters),
    ):
        if count > limit:
            raise InputError(
                f"criteria has {count} {unit}; this service accepts {limit} (setting {setting})",
                field="criteria",
                problem="too-large",
            )


def chosen_criteria(
    criteria: Sequence[wire.Criterion], question: str, voting: wire.Voting
) -> tuple[int, ...]:
    """The positions of the criteria that are judged: all of them, without dropout."""
    ids = [criterion.id for criterion in criteria]
    return tuple(kept(ids, question, voting.criteria_dropout, voting.seed))


def prompt_criteria(
    criteria: Sequence[wire.Criterion], asked: Sequence[int]
) -> list[PromptCriterion]:
    """The criteria that are judged, as the judge's prompt has them."""
    return [
        PromptCriterion(label(number), criteria[position].kind, criteria[position].text)
        for number, position in enumerate(asked)
    ]


def voted_criteria(
    criteria: Sequence[wire.Criterion],
    asked: Sequence[int],
    votes: JoinedVotes,
    method: wire.VotingMethod,
) -> list[VotedCriterion]:
    """The vote on each of the criteria that were judged."""
    voted = []
    for position, (count, step) in zip(asked, votes.criteria(method), strict=True):
        criterion = criteria[position]
        share = count.share(method)
        voted.append(VotedCriterion(criterion.kind, criterion.weight, share, step))
    return voted


def added_rewards(
    voted: Sequence[VotedCriterion], reward: wire.Reward, n_steps: int, barred: Collection[int]
) -> list[float]:
    """What the criteria add to the reward of each step; nothing where the scheme is another."""
    if reward.scheme != "criteria":
        return [0.0] * n_steps
    return rewards_by_step(voted, reward.w_criteria, n_steps, barred)


def credited_criteria(
    criteria: Sequence[wire.Criterion],
    asked: Sequence[int],
    voted: Sequence[VotedCriterion],
    votes: JoinedVotes,
    options: wire.CreditOptions,
) -> list[wire.CriterionCredit] | None:
    """Every criterion with its vote, in the rollout's order; None if there is none."""
    if not criteria:
        return None
    reward, voting = options.reward, options.voting
    by_scheme = reward.w_criteria if reward.scheme == "criteria" else 0.0
    added = amounts(voted, by_scheme)
    counts = [count for count, _ in votes.criteria(voting.method)]
    numbers = {position: number for number, position in enumerate(asked)}

    def credit(position: int, criterion: wire.Criterion) -> wire.CriterionCredit:
        number = numbers.get(position)
        share, step, gain = 0.0, None, 0.0
        cast = wire.CriterionVotes(holds=0, valid=0, asked=0)
        if number is not None:
            share, step, gain = voted[number].share, voted[number].step, added[number]
            holds, valid = counts[number].holds, counts[number].valid
            cast = wire.CriterionVotes(holds=holds, valid=valid, asked=voting.critiques)
        return wire.CriterionCredit(
            id=criterion.id,
            kind=criterion.kind,
            weight=criterion.weight,
            label=None if number is None else label(number),
            holds=share >= 0.5,
            share=share,
            step=step,
            votes=cast,
            reward=gain + 0.0,  # never -0.0
        )

    return [credit(position, criterion) for position, criterion in enumerate(criteria)]


def criterion_answers(
    criteria: Sequence[wire.Criterion],
    asked: Sequence[int],
    verdicts: Sequence[CriterionVerdict],
    first_step: int,
) -> list[wire.CriterionAnswer] | None:
    """What a critique says of each criterion; None if nothing."""
    if not verdicts:
        return None
    return [
        wire.CriterionAnswer(
            id=criteria[position].id,
            holds=verdict.holds,
            step=None if verdict.step is None else first_step + verdict.step,
        )
        for position, verdict in zip(asked, verdicts, strict=True)
    ]
