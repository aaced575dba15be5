"""Everything about a rollout that needs no judge: checks, steps, alignment, the judge's prompt."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import capo_wire as wire
from capo_service.core import alignment, steps
from capo_service.core.alignment import Alignment
from capo_service.core.arithmetic import false_equations
from capo_service.core.critique_format import OutputFormat, Style
from capo_service.core.errors import InputError
from capo_service.core.prompt import PromptTemplate, nonce
from capo_service.core.suspicion import Action, Reason, Suspicion, suspicions
from capo_service.core.vocabulary import TokenTable
from capo_service.engine.base import EncodedPrompt, Prompt, Sampling

_LEAST_FREE_TEXT = 64  # tokens that a critique in free text must at least have room for


@dataclass(frozen=True, slots=True)
class Policy:
    """What the operator decides about critiques, and the limits on one rollout.

    `prefill`: whether the prompt holds what each critique must begin with. `suspicion`: what is
    done about rollouts that look like gaming the judge, where it is not only told.
    `symbolic_votes`: what a false equation casts against its step.
    """

    style: Style = "brief"
    format: str = "json"
    prefill: bool = False
    max_characters: int = 200_000
    max_response_tokens: int = 65_536
    max_steps: int = 400
    max_critiques: int = 64
    suspicion: Mapping[Reason, Action] = field(default_factory=dict)
    symbolic_votes: int = 0


@dataclass(frozen=True, slots=True)
class Prepared:
    """A rollout with everything done that needs no judge.

    `false_steps`: what is false in steps that state a false equation; each casts `symbolic_votes`.
    """

    response: str
    spans: list[steps.Span]
    token_spans: list[steps.Span] | None
    prompt: EncodedPrompt
    sampling: Sampling
    suspicion: Sequence[Suspicion] = ()
    false_steps: Mapping[int, str] = field(default_factory=dict)
    symbolic_votes: int = 0


class Preparer:
    """Prepares rollouts for one judge.

    Args:
        encode: the engine's own encoding of a prompt.
        context_length: most tokens of prompt and critique together; None if unknown.
        template: the prompt.
        tables: the vocabularies that rollouts may name.
        secret: keys the nonce of step tags.
        policy: what the operator decided.
    """

    def __init__(
        self,
        encode: Callable[[Prompt], EncodedPrompt],
        context_length: int | None,
        template: PromptTemplate,
        tables: Mapping[str, TokenTable],
        secret: bytes,
        policy: Policy,
    ) -> None:
        self._encode = encode
        self._context_length = context_length
        self._template = template
        self._tables = tables
        self._secret = secret
        self._policy = policy

    def prepare(self, rollout: wire.Rollout, options: wire.CreditOptions) -> Prepared:
        """Everything before the judge. CPU work only, linear in the rollout; safe in any thread.

        Raises:
            InputError: the rollout cannot be credited as sent.
        """
        policy = self._policy
        question = rollout.question
        if question is None:
            question = conversation(rollout.messages or [])
        for name, text in (
            ("question", question),
            ("response", rollout.response),
            ("reference", rollout.reference),
        ):
            limit(name, "characters", len(text or ""), "max_characters", policy.max_characters)
        if options.voting.critiques > policy.max_critiques:
            raise InputError(
                f"voting.n = {options.voting.critiques} is over this service's limit of "
                f"{policy.max_critiques} critiques (max_critiques)",
                field="voting.n",
            )
        if (
            rollout.outcome is None
            and rollout.reference is None
            and options.reward.scheme != "process_only"
        ):
            raise InputError(
                f"reward scheme {options.reward.scheme} needs an outcome: send outcome, or a "
                "reference to verify the answer by, or use scheme process_only",
                field="outcome",
                problem="no-outcome",
            )
        aligned = self._align(rollout)
        response = aligned.text if aligned else rollout.response or ""
        spans = _split(response, rollout.steps, options.segment)
        limit("response", "steps", len(spans), "max_steps", policy.max_steps)
        style = options.voting.critique_style or policy.style
        prompt = self._template.render(
            question=question,
            steps=[response[start:end] for start, end in spans],
            reference=rollout.reference if options.show_reference else None,
            nonce=nonce(self._secret, question),
            style=style,
            format=policy.format,
        )
        shape = self._shape(options.voting, style, len(spans))
        opening = shape.opening() if shape and policy.prefill else ""
        encoded = self._encode(Prompt(prompt.system, prompt.user, opening))
        return Prepared(
            response=response,
            spans=spans,
            token_spans=alignment.token_spans(aligned, spans) if aligned else None,
            prompt=encoded,
            sampling=self._sampling(options.voting, shape, encoded),
            suspicion=suspicions(question, response, spans, policy.suspicion),
            false_steps=_false_steps(response, spans) if policy.symbolic_votes else {},
            symbolic_votes=policy.symbolic_votes,
        )

    def _align(self, rollout: wire.Rollout) -> Alignment | None:
        ids, offsets = rollout.response_token_ids, rollout.token_offsets
        count = len(ids if ids is not None else offsets or ())
        limit(
            "response",
            "tokens",
            count,
            "max_response_tokens",
            self._policy.max_response_tokens,
        )
        if offsets is not None:
            return alignment.from_offsets(offsets, rollout.response or "")
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

    def _shape(self, asked: wire.Voting, style: Style, n_steps: int) -> OutputFormat | None:
        """The form that critiques must keep; None where they are free text."""
        if self._policy.format != "json":
            return None
        shape = OutputFormat.fitting(n_steps, style, asked.max_tokens)
        if shape is None:
            needed = OutputFormat(n_steps, 0).max_tokens()
            raise InputError(
                f"a verdict on {n_steps} steps may take {needed} tokens, but voting.max_tokens is "
                f"{asked.max_tokens}; raise it, or use a segmenter with fewer steps",
                field="voting.max_tokens",
            )
        return shape

    def _sampling(
        self, asked: wire.Voting, shape: OutputFormat | None, prompt: EncodedPrompt
    ) -> Sampling:
        """How critiques are sampled, within the judge's context."""
        max_tokens = shape.max_tokens() if shape else asked.max_tokens
        context = self._context_length
        if context is not None and prompt.tokens is not None:
            needed = max_tokens if shape else min(max_tokens, _LEAST_FREE_TEXT)
            if prompt.tokens + needed > context:
                raise InputError(
                    f"the judge's prompt has {prompt.tokens} tokens and its critique may take "
                    f"{needed}, but the judge's context holds {context}; shorten the rollout or "
                    "use a judge with a longer context",
                    field="response",
                    problem="context-exceeded",
                )
            max_tokens = min(max_tokens, context - prompt.tokens)
        return Sampling(
            temperature=0.0 if asked.method == "greedy" else asked.temperature,
            top_p=1.0 if asked.method == "greedy" else asked.top_p,
            max_tokens=max_tokens,
            seed=asked.seed,
            grammar=shape.grammar(opened=bool(prompt.opening)) if shape else None,
            json_schema=shape.json_schema() if shape else None,
        )


def _false_steps(response: str, spans: Sequence[steps.Span]) -> dict[int, str]:
    found = {i: false_equations(response[start:end]) for i, (start, end) in enumerate(spans)}
    return {i: "; ".join(map(str, false)) for i, false in found.items() if false}


def conversation(messages: Sequence[wire.ChatTurn]) -> str:
    """Chat turns as one text: a lone user turn as it is, others with their roles."""
    if len(messages) == 1 and messages[0].role == "user":
        return messages[0].text()
    return "\n\n".join(f"{turn.role}: {turn.text()}" for turn in messages)


def _split(
    response: str, given: Sequence[steps.Span] | None, segment: wire.Segment
) -> list[steps.Span]:
    if not response.strip():
        raise InputError("response is empty or blank: there is no step to judge", field="response")
    if given is not None:
        spans = steps.given(response, given)
    elif segment.method == "given":
        raise InputError("segment method given needs the rollout's steps", field="steps")
    elif segment.method == "regex":
        spans = steps.by_pattern(response, segment.pattern or "", segment.cut)
    else:
        spans = _SEGMENTERS[segment.method](response)
    return spans


_SEGMENTERS = {
    "blank_line": steps.blank_line,
    "newline": steps.newline,
    "sentence": steps.sentence,
}


def limit(name: str, unit: str, count: int, setting: str, most: int) -> None:
    if count > most:
        raise InputError(
            f"{name} has {count} {unit}; this service takes {most} (setting {setting})",
            field=name,
            problem="too-large",
        )
