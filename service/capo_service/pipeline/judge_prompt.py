"""The judge's task for a rollout: the encoded prompt, and how its critiques are sampled."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import capo_wire as wire
from capo_service.core.errors import InputError
from capo_service.core.observations import ShownStep
from capo_service.core.prompt import PromptCriterion, nonce
from capo_service.core.step_code import step_code
from capo_service.core.verdicts.base import ConstraintForm, CriterionKind, Style, VerdictShape
from capo_service.core.windows import WHOLE, Surroundings
from capo_service.engine.base import CritiqueSampling, EncodedPrompt, JudgePrompt
from capo_service.judges.profile import JudgeProfile
from capo_service.pipeline.errors import ContextExceededError

_LEAST_FREE_TEXT = 64  # minimum tokens of a critique in free text
# A step is shown with the observations before and after it.
_OBSERVATIONS_IN_CONTEXT = 6


@dataclass(frozen=True, slots=True)
class JudgeTask:
    """A prompt, how each of its critiques is sampled, and how they are read.

    `needed`: tokens of prompt, thought and critique together; 0 if only the server knows.
    """

    prompt: EncodedPrompt
    sampling: CritiqueSampling
    shape: VerdictShape
    needed: int = 0


class JudgePrompter:
    """Makes tasks for one judge.

    Args:
        encode: the engine's function that encodes a prompt.
        context_length: maximum tokens of prompt and critique together; None if unknown.
        profile: the judge's profile.
        constraint: how the engine constrains critiques.
        secret: from which the codes in steps' heads and tags are derived.
        prefill: whether the prompt contains the fixed start of each critique.
        top_logprobs: tokens of which the engine returns log probabilities, for exact votes; 0 if
            there are none.
    """

    def __init__(
        self,
        encode: Callable[[JudgePrompt], EncodedPrompt],
        context_length: int | None,
        profile: JudgeProfile,
        constraint: ConstraintForm,
        secret: bytes,
        prefill: bool = False,
        top_logprobs: int = 0,
    ) -> None:
        self._encode = encode
        self._context_length = context_length
        self._profile = profile
        self._constraint = constraint
        self._secret = secret
        self._prefill = prefill
        self._top_logprobs = top_logprobs

    @property
    def shows_earlier(self) -> bool:
        """Whether the template shows the steps before a part of a rollout."""
        return self._profile.template.shows_earlier

    @property
    def most_observation_tokens(self) -> int | None:
        """The most tokens of an observation that leave space for others; None if unknown."""
        context = self._context_length
        return None if context is None else max(context // _OBSERVATIONS_IN_CONTEXT, 16)

    def most_steps(
        self, n_steps: int, style: Style, voting: wire.Voting, criteria: tuple[CriterionKind, ...]
    ) -> int:
        """How many of `n_steps` steps a verdict of `voting.max_tokens` can judge together."""

        def exceeds(steps: int) -> bool:
            most, constraint = voting.max_tokens, self._constraint
            return self._profile.shape(steps, style, most, constraint, criteria) is None

        if not exceeds(n_steps):
            return n_steps
        return bisect_right(range(1, n_steps), False, key=exceeds)

    def task(
        self,
        question: str,
        steps: Sequence[ShownStep],
        reference: str | None,
        voting: wire.Voting,
        style: Style,
        thinking_tokens: int,
        around: Surroundings = WHOLE,
        criteria: Sequence[PromptCriterion] = (),
    ) -> JudgeTask:
        """The task for a rollout, or for a part of one. CPU work only; safe in any thread.

        Args:
            question: the question that the rollout answers.
            steps: its steps, or those of the part.
            reference: shown to the judge; None: not shown.
            voting: the request's sampling options.
            style: length of a critique's analysis.
            thinking_tokens: budget of the thought before each critique; 0: there is none.
            around: what the prompt says about the other steps.
            criteria: what else it is judged by.

        Raises:
            ContextExceededError: prompt and critique exceed the judge's context.
            InputError: the verdict exceeds the request's `max_tokens`, the profile takes no
                criteria, or the judge has no exact votes.
        """
        if voting.exact:
            self._check_exact(voting, thinking_tokens, bool(criteria))
        if criteria:
            self._check_takes_criteria()
        observed = [step.observation for step in steps if step.observation is not None]
        if around.before is not None:
            observed.append(around.before)
        if observed and not self._profile.template.shows_observations:
            raise InputError(
                "the judge's prompt template does not show observations (what tools and "
                "environments wrote): show step.observation and before, also in earlier, as the "
                "template of profile agent does, or send the policy's text alone",
                field="response",
            )
        kinds = tuple(criterion.kind for criterion in criteria)
        shape = self._shape(len(steps), style, voting, kinds)
        texts = [question, reference or "", *observed, *(step.text for step in steps)]
        texts += [each for e in around.earlier for each in (e.text, e.observation)]
        texts += [criterion.text for criterion in criteria]
        prompt = self._profile.template.render(
            question=self._quotable(question),
            steps=[self._quotable(step.text) for step in steps],
            observations=[self._quotable(step.observation or "") for step in steps],
            reference=None if reference is None else self._quotable(reference),
            nonce=nonce(self._secret, question),
            code=step_code(self._secret, question, texts),
            style=style,
            format=shape.name,
            thinking=thinking_tokens > 0,
            around=self._quotable_around(around),
            criteria=criteria,
        )
        # A thought comes first, so the fixed start of the critique cannot be in the prompt.
        opening = shape.opening if self._prefill and not thinking_tokens else ""
        encoded = self._encode(
            JudgePrompt(prompt.system, prompt.user, opening, thinking_tokens > 0)
        )
        rest = shape.opened() if encoded.opening else shape
        needed = self._needed(rest, encoded, thinking_tokens, around.is_part)
        sampling = self._sampling(voting, rest, encoded, thinking_tokens)
        return JudgeTask(encoded, sampling, shape, needed)

    def _quotable(self, text: str) -> str:
        """An untrusted text in which the phrase that gives an answer is broken (U+200B).

        A judge that quotes the phrase in its analysis would otherwise give the answer of the text.
        """
        phrase = self._profile.answer_phrase
        return text.replace(phrase, phrase[0] + "\u200b" + phrase[1:]) if phrase else text

    def _quotable_around(self, around: Surroundings) -> Surroundings:
        if not self._profile.answer_phrase:
            return around
        earlier = [
            replace(e, text=self._quotable(e.text), observation=self._quotable(e.observation))
            for e in around.earlier
        ]
        before = None if around.before is None else self._quotable(around.before)
        return replace(around, earlier=earlier, before=before)

    def _check_takes_criteria(self) -> None:
        if not self._profile.takes_criteria:
            raise InputError(
                f"the verdicts of judge profile {self._profile.name} do not answer criteria: use "
                "profile default, general or code (setting profile), or leave criteria out",
                field="criteria",
            )
        if not self._profile.template.shows_criteria:
            raise InputError(
                "the judge's prompt template does not show criteria: show the variable criteria, "
                "as the template of profile default does, or leave criteria out",
                field="criteria",
            )

    def _check_exact(self, voting: wire.Voting, thinking_tokens: int, with_criteria: bool) -> None:
        why, field = "", "voting.exact"
        if self._profile.verdict != "step_list":
            why = (
                f"need a list of steps as the verdict, and the judge profile {self._profile.name} "
                "has another form: use profile default, general or code (setting profile)"
            )
        elif not self._top_logprobs:
            why = (
                "need the judge's token probabilities, which this engine does not return: use "
                "engine vllm, with its own logprobs_mode and max_logprobs"
            )
        elif thinking_tokens:
            field = "voting.thinking_tokens"
            why = (
                f"are read from bare verdicts, but this judge thinks {thinking_tokens} tokens "
                "first: set voting.thinking_tokens to 0"
            )
        elif voting.temperature is None and self._profile.temperature == 0:
            field = "voting.temperature"
            why = (
                f"are those of sampled critiques, but the judge profile {self._profile.name} has "
                "temperature 0: set voting.temperature"
            )
        elif with_criteria:
            field = "criteria"
            why = "are votes on steps, and the rollout has criteria: send it without them"
        if why:
            raise InputError(f"exact votes {why}, or leave voting.exact out", field=field)

    def _shape(
        self,
        n_steps: int,
        style: Style,
        voting: wire.Voting,
        criteria: tuple[CriterionKind, ...],
    ) -> VerdictShape:
        most, constraint = voting.max_tokens, self._constraint
        shape = self._profile.shape(n_steps, style, most, constraint, criteria)
        if shape is None:
            bare = self._profile.shape(n_steps, "verdict", 1 << 30, constraint, criteria)
            needed = bare.max_tokens(self._constraint) if bare else 0
            also = f" and {len(criteria)} criteria" if criteria else ""
            raise InputError(
                f"a verdict on {n_steps} steps{also} may take {needed} tokens, but "
                f"voting.max_tokens is {voting.max_tokens}; raise it, "
                + ("send fewer criteria, " if criteria else "")
                + "or ask for fewer steps (segment.max_steps)",
                field="voting.max_tokens",
            )
        return shape

    def _needed(
        self, shape: VerdictShape, prompt: EncodedPrompt, thinking_tokens: int, is_part: bool
    ) -> int:
        """The tokens of prompt, thought and critique; 0 if only the server knows."""
        if prompt.tokens is None:
            return 0
        thought = thinking_tokens + prompt.closing_tokens
        critique = shape.max_tokens(self._constraint)
        if not shape.is_constrained:
            # The parts of a rollout are made so short that there is space for a usual critique.
            critique = min(critique, shape.expected_tokens() if is_part else _LEAST_FREE_TEXT)
        needed, context = prompt.tokens + thought + critique, self._context_length
        if context is not None and needed > context:
            raise ContextExceededError(
                _exceeded(prompt.tokens, thought, critique, context),
                "voting.thinking_tokens" if thought + critique > context else "response",
                needed,
                context,
            )
        return needed

    def _sampling(
        self, voting: wire.Voting, shape: VerdictShape, prompt: EncodedPrompt, thinking_tokens: int
    ) -> CritiqueSampling:
        """How critiques are sampled, within the judge's context."""
        max_tokens = shape.max_tokens(self._constraint)
        context = self._context_length
        if context is not None and prompt.tokens is not None:
            thought = thinking_tokens + prompt.closing_tokens
            max_tokens = min(max_tokens, context - prompt.tokens - thought)
        profile, greedy = self._profile, voting.method == "greedy"
        temperature = profile.temperature if voting.temperature is None else voting.temperature
        return CritiqueSampling(
            temperature=0.0 if greedy else temperature,
            top_p=1.0 if greedy else voting.top_p or profile.top_p,
            max_tokens=max_tokens,
            seed=voting.seed,
            constraint=shape if shape.is_constrained or thinking_tokens else None,
            thinking_tokens=thinking_tokens,
            top_logprobs=self._top_logprobs if voting.exact else 0,
        )


def _exceeded(prompt: int, thought: int, critique: int, context: int) -> str:
    thinks = f" and its thought {thought}" if thought else ""
    change = "lower the thinking budget, shorten" if thought else "shorten"
    return (
        f"the judge's prompt has {prompt} tokens and its critique may take {critique}{thinks}, but "
        f"the judge's context holds {context}; {change} the rollout or use a judge with a longer "
        "context"
    )
