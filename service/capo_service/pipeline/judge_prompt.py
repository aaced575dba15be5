"""The judge's task for a rollout: the encoded prompt, and how its critiques are sampled."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import capo_wire as wire
from capo_service.core.critique_format import OutputFormat, Style
from capo_service.core.errors import InputError
from capo_service.core.prompt import PromptTemplate, nonce
from capo_service.engine.base import CritiqueSampling, EncodedPrompt, JudgePrompt

_LEAST_FREE_TEXT = 64  # minimum tokens of a critique in free text


@dataclass(frozen=True, slots=True)
class JudgeTask:
    """A prompt, and how each of its critiques is sampled."""

    prompt: EncodedPrompt
    sampling: CritiqueSampling


class JudgePrompter:
    """Makes tasks for one judge.

    Args:
        encode: the engine's function that encodes a prompt.
        context_length: maximum tokens of prompt and critique together; None if unknown.
        template: the prompt template.
        secret: from which the nonces in step tags are derived.
        prefill: whether the prompt contains the fixed start of each critique.
    """

    def __init__(
        self,
        encode: Callable[[JudgePrompt], EncodedPrompt],
        context_length: int | None,
        template: PromptTemplate,
        secret: bytes,
        prefill: bool = False,
    ) -> None:
        self._encode = encode
        self._context_length = context_length
        self._template = template
        self._secret = secret
        self._prefill = prefill

    def task(
        self,
        question: str,
        steps: Sequence[str],
        reference: str | None,
        voting: wire.Voting,
        style: Style,
        shape: OutputFormat | None,
    ) -> JudgeTask:
        """The task for a rollout. CPU work only; safe in any thread.

        Args:
            question: the question that the rollout answers.
            steps: the texts of its steps.
            reference: shown to the judge; None: not shown.
            voting: the request's sampling options.
            style: length of a critique's analysis.
            shape: the format of critiques; None for free text.

        Raises:
            InputError: prompt and critique exceed the judge's context.
        """
        prompt = self._template.render(
            question=question,
            steps=steps,
            reference=reference,
            nonce=nonce(self._secret, question),
            style=style,
            format="json" if shape else "tag",
        )
        opening = shape.opening() if shape and self._prefill else ""
        encoded = self._encode(JudgePrompt(prompt.system, prompt.user, opening))
        return JudgeTask(encoded, self._sampling(voting, shape, encoded))

    def _sampling(
        self, voting: wire.Voting, shape: OutputFormat | None, prompt: EncodedPrompt
    ) -> CritiqueSampling:
        """How critiques are sampled, within the judge's context."""
        max_tokens = shape.max_tokens() if shape else voting.max_tokens
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
        greedy = voting.method == "greedy"
        return CritiqueSampling(
            temperature=0.0 if greedy else voting.temperature,
            top_p=1.0 if greedy else voting.top_p,
            max_tokens=max_tokens,
            seed=voting.seed,
            grammar=shape.grammar(opened=bool(prompt.opening)) if shape else None,
            json_schema=shape.json_schema() if shape else None,
        )
