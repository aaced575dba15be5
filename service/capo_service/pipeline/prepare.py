"""Prepares a rollout for the judge: checks, steps, alignment, prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import capo_wire as wire
from capo_service.core import alignment
from capo_service.core.alignment import Alignment
from capo_service.core.arithmetic import false_equations
from capo_service.core.errors import InputError
from capo_service.core.observations import ShownStep
from capo_service.core.suspicion import SuspicionAction, SuspicionReason, suspicions
from capo_service.core.turns import Trajectory, tokens_of_steps, trajectory
from capo_service.core.verdicts.base import Style
from capo_service.core.vocabulary import TokenTable
from capo_service.core.windows import Surroundings
from capo_service.judges.profile import JudgeProfile
from capo_service.pipeline.criteria import check_criteria, chosen_criteria, prompt_criteria
from capo_service.pipeline.cutting import cut_turns, turns_of
from capo_service.pipeline.judge_prompt import JudgePrompter, JudgeTask
from capo_service.pipeline.prepared import Prepared
from capo_service.pipeline.windows import MakeTask, find_windows
from capo_service.settings import Settings


@dataclass(frozen=True, slots=True)
class CritiquePolicy:
    """The operator's settings for critiques, and limits of one rollout.

    `thinking`: the judge's thinking budget in tokens, where the request names none.
    `max_thinking_tokens`: the most that a request may name.
    `max_observation_tokens`: of an observation, the most that the judge is shown by default.
    `max_steps`: the most that are judged together, and to which a segmenter's steps are merged.
    `windows`: whether what exceeds the judge is judged in windows of steps.
    `suspicion`: actions for reward-hacking flags, by reason; the default is `flag`.
    `symbolic_votes`: votes of the arithmetic checker against a step with a false equation.
    """

    style: Style = "brief"
    thinking: int = 0
    max_thinking_tokens: int = 32_768
    max_characters: int = 400_000
    max_response_tokens: int = 65_536
    max_observation_tokens: int = 1_000
    max_steps: int = 400
    windows: bool = True
    max_critiques: int = 64
    max_criteria: int = 32
    suspicion: Mapping[SuspicionReason, SuspicionAction] = field(default_factory=dict)
    symbolic_votes: int = 0

    @classmethod
    def of(cls, settings: Settings, profile: JudgeProfile) -> CritiquePolicy:
        """The policy in the settings and the judge's profile."""
        thinking = settings.thinking_tokens
        return cls(
            style=profile.style,
            thinking=profile.thinking_tokens if thinking is None else thinking,
            max_thinking_tokens=settings.max_thinking_tokens,
            max_characters=settings.max_characters,
            max_response_tokens=settings.max_response_tokens,
            max_observation_tokens=settings.max_observation_tokens,
            max_steps=settings.max_steps,
            windows=settings.windows,
            max_critiques=settings.max_critiques,
            max_criteria=settings.max_criteria,
            suspicion=settings.suspicion,
            symbolic_votes=settings.symbolic_votes,
        )

    def style_of(self, voting: wire.Voting) -> Style:
        """The length of a critique's analysis; exact votes have none."""
        return voting.critique_style or ("verdict" if voting.exact else self.style)

    def thinking_tokens(self, voting: wire.Voting) -> int:
        """The thinking budget of a request; 0: the judge does not think."""
        return self.thinking if voting.thinking_tokens is None else voting.thinking_tokens


class Preparer:
    """Prepares rollouts for one critic.

    Args:
        prompter: makes the judge's prompt; None for the symbolic critic, which needs the false
            equations of the steps instead.
        tables: the vocabularies that rollouts may name.
        policy: the operator's settings.
    """

    def __init__(
        self,
        prompter: JudgePrompter | None,
        tables: Mapping[str, TokenTable],
        policy: CritiquePolicy,
    ) -> None:
        self._prompter = prompter
        self._find_equations = bool(policy.symbolic_votes) or prompter is None
        self._tables = tables
        self._policy = policy

    def prepare(self, rollout: wire.Rollout, options: wire.CreditOptions) -> Prepared:
        """Prepare a rollout. CPU work only, linear in its length; thread-safe.

        Raises:
            InputError: the rollout cannot be credited as sent.
        """
        policy, prompter = self._policy, self._prompter
        question = rollout.prompt_text()
        sent, observed = rollout.trajectory()
        self._check(question, sent, rollout, options)
        aligned = self._align(rollout)
        response = aligned.text if aligned else sent
        turns = turns_of(rollout, response, aligned, observed or ())
        by_turn = cut_turns(response, turns, rollout.steps, options.segment, policy.max_steps)
        spans = [span for each in by_turn for span in each]
        if not policy.windows:
            limit("response", "steps", len(spans), "max_steps, or windows", policy.max_steps)
        texts = [response[start:end] for start, end in spans]
        others = trajectory(response, turns, list(map(len, by_turn)), self._budget(options))
        own = response if others is None else "\n\n".join(others.turns)
        prepared = Prepared(
            response=response,
            spans=spans,
            token_spans=tokens_of_steps(aligned, turns, by_turn) if aligned else None,
            style=policy.style_of(options.voting),
            trajectory=others,
            suspicion=suspicions(_read(question, others), own, texts, policy.suspicion),
            false_equations=_false_equations(texts) if self._find_equations else {},
            symbolic_votes=policy.symbolic_votes,
            criteria=rollout.criteria or (),
            asked=chosen_criteria(rollout.criteria or (), question, options.voting),
        )
        if prompter is None:
            return prepared
        return self._with_tasks(prompter, prepared, question, rollout, options)

    def make_task(
        self,
        prompter: JudgePrompter,
        question: str,
        rollout: wire.Rollout,
        options: wire.CreditOptions,
    ) -> MakeTask:
        """The function that makes the task for some steps of a rollout to a question."""
        voting, policy = options.voting, self._policy
        reference = rollout.reference if options.show_reference else None
        style = policy.style_of(voting)
        thinking = policy.thinking_tokens(voting)
        given = rollout.criteria or ()
        criteria = prompt_criteria(given, chosen_criteria(given, question, voting))

        def make(steps: Sequence[ShownStep], around: Surroundings) -> JudgeTask:
            return prompter.task(
                question, steps, reference, voting, style, thinking, around, criteria
            )

        return make

    def _with_tasks(
        self,
        prompter: JudgePrompter,
        prepared: Prepared,
        question: str,
        rollout: wire.Rollout,
        options: wire.CreditOptions,
    ) -> Prepared:
        """A rollout with the judge's task, or with its windows."""
        policy = self._policy
        windows = find_windows(
            prepared.shown_steps,
            self.make_task(prompter, question, rollout, options),
            self._most_steps(prompter, prepared, options.voting),
            split=policy.windows,
            shows_earlier=prompter.shows_earlier,
            before=prepared.trajectory.shown.get(-1) if prepared.trajectory else None,
        )
        if len(windows) == 1:
            return replace(prepared, task=windows[0].task, around=windows[0].around)
        parts = [prepared.window(*each.bounds, each.task, each.around) for each in windows]
        return replace(prepared, parts=parts)

    def _budget(self, options: wire.CreditOptions) -> int:
        """The most tokens that an observation may have in the judge's prompt."""
        asked = options.max_observation_tokens or self._policy.max_observation_tokens
        holds = self._prompter and self._prompter.most_observation_tokens
        return min(asked, holds) if holds else asked

    def _most_steps(self, prompter: JudgePrompter, prepared: Prepared, voting: wire.Voting) -> int:
        """How many of a rollout's steps may be judged together."""
        most = self._policy.max_steps
        if not (self._policy.windows and prompter.shows_earlier):
            return most
        most = min(len(prepared.spans), most)
        kinds = tuple(prepared.criteria[position].kind for position in prepared.asked)
        # If not even one step fits, all are tried together, which is an error.
        return prompter.most_steps(most, prepared.style, voting, kinds) or most

    def _check(
        self, question: str, response: str, rollout: wire.Rollout, options: wire.CreditOptions
    ) -> None:
        """Refuse a rollout that exceeds a limit, or whose outcome cannot be determined."""
        policy = self._policy
        for name, text in (
            ("question", question),
            ("response", response),
            ("reference", rollout.reference),
        ):
            limit(name, "characters", len(text or ""), "max_characters", policy.max_characters)
        if options.voting.critiques > policy.max_critiques:
            raise InputError(
                f"voting.n = {options.voting.critiques} exceeds this service's limit of "
                f"{policy.max_critiques} critiques (setting max_critiques): send a lower voting.n",
                field="voting.n",
            )
        limit(
            "voting.thinking_tokens",
            "tokens",
            options.voting.thinking_tokens or 0,  # the service's own default may be more
            "max_thinking_tokens",
            policy.max_thinking_tokens,
        )
        if options.voting.exact and self._prompter is None:
            raise InputError(
                "engine symbolic samples nothing, so that its votes are exact already: leave "
                "voting.exact out",
                field="voting.exact",
            )
        scheme = options.reward.scheme
        check_criteria(rollout, scheme, policy.max_criteria, policy.max_characters)
        if rollout.criteria and self._prompter is None:
            raise InputError(
                "engine symbolic checks arithmetic and does not judge criteria: leave criteria "
                "out, or use a judge",
                field="criteria",
            )
        has_outcome = rollout.outcome is not None or rollout.reference is not None
        if not has_outcome and scheme not in _WITHOUT_OUTCOME:
            raise InputError(
                f"reward scheme {scheme} needs an outcome: send outcome, or a "
                "reference to verify the answer by, or use scheme process_only",
                field="outcome",
                problem="no-outcome",
            )

    def _align(self, rollout: wire.Rollout) -> Alignment | None:
        ids, offsets = rollout.response_token_ids, rollout.token_offsets
        lengths = rollout.token_lengths
        limit(
            "response",
            "tokens",
            rollout.token_count,
            "max_response_tokens",
            self._policy.max_response_tokens,
        )
        if offsets is not None:
            return alignment.from_offsets(offsets, rollout.response or "")
        if lengths is not None:
            return alignment.from_lengths(lengths, rollout.response or "")
        if ids is None:
            return None
        table = self._tables.get(rollout.tokenizer or "")
        if table is None:
            raise InputError(
                f"tokenizer {rollout.tokenizer!r} is not served; this service has "
                f"{', '.join(sorted(self._tables)) or 'none'} (setting tokenizers adds more), or "
                "send token_offsets",
                field="tokenizer",
                problem="unknown-tokenizer",
            )
        return alignment.align(table, ids, rollout.response)


_WITHOUT_OUTCOME = ("process_only", "criteria")  # schemes that need none


def _read(question: str, others: Trajectory | None) -> str:
    """What the policy has read, in whose scripts it may write."""
    return "\n".join([question, *others.shown.values()]) if others else question


def _false_equations(texts: Sequence[str]) -> dict[int, str]:
    found = ((step, false_equations(text)) for step, text in enumerate(texts))
    return {step: "; ".join(map(str, false)) for step, false in found if false}


def limit(name: str, unit: str, count: int, setting: str, most: int) -> None:
    """Refuse a rollout that exceeds a setting's limit.

    Raises:
        InputError: `count` is over `most`.
    """
    if count > most:
        raise InputError(
            f"{name} has {count} {unit}; this service accepts {most} (setting {setting})",
            field=name,
            problem="too-large",
        )
