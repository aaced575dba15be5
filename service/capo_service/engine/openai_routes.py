"""How critiques are requested: prompts as token ids, or as chat messages.

Token ids: thought and verdict are one request under a structural tag where the server applies
those; else the thought is a request of its own, and the verdict follows on the cached prompt.
Chat messages: the server returns the thought apart from the verdict.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

from capo_service.engine.base import (
    ChatPrompt,
    Completion,
    Constraint,
    ConstraintForm,
    CritiqueFailedError,
    CritiqueSampling,
    TokenPrompt,
)
from capo_service.engine.openai_answer import answer_of, chat_completion
from capo_service.engine.prompt_encoder import THINKING_SWITCHES, PromptEncoder
from capo_service.engine.thinking import structural_tag
from capo_service.engine.thought_split import split_thought

log = logging.getLogger(__name__)

_COMPLETIONS, _CHAT = "/completions", "/chat/completions"

Progress = Callable[[Completion], None]


class Ask(Protocol):
    """Sends a request's body to a route of the upstream; errors as in `Upstream.post`."""

    async def __call__(self, route: str, body: dict[str, Any]) -> dict[str, Any]: ...


@dataclass
class TokenRoute:
    """Prompts as token ids.

    Attributes:
        ask: sends a request.
        encoder: the judge's tokenizer.
        is_vllm: whether the server is vLLM.
        form: how critiques are constrained.
        splits: whether thought and verdict are two requests.
    """

    ask: Ask
    encoder: PromptEncoder
    is_vllm: bool
    form: ConstraintForm
    splits: bool = True

    async def complete(
        self, prompt: TokenPrompt, sampling: CritiqueSampling, progress: Progress
    ) -> Completion:
        """Sample one critique; `progress` gets the thought where that was a request of its own."""
        if not sampling.thinking_tokens:
            return await self._verdict(prompt, sampling)
        if self.splits or sampling.constraint is None:
            return await self._in_two_requests(prompt, sampling, progress)
        return await self._in_one_request(prompt, sampling, sampling.constraint)

    async def _verdict(self, prompt: TokenPrompt, sampling: CritiqueSampling) -> Completion:
        body = _sampled(sampling, _limit(sampling, self.form))
        body |= {"prompt": prompt.ids, **_constraint(sampling.constraint, self.form, self.is_vllm)}
        return answer_of(await self.ask(_COMPLETIONS, body)).completion()

    async def _in_one_request(
        self, prompt: TokenPrompt, sampling: CritiqueSampling, constraint: Constraint
    ) -> Completion:
        budget = sampling.thinking_tokens
        body = _sampled(sampling, budget + prompt.closing_tokens + sampling.max_tokens)
        tag = structural_tag(self.encoder.thought_end, budget, constraint)
        body |= {
            "prompt": prompt.ids,
            "structured_outputs": {"structural_tag": tag},
            "return_token_ids": True,  # the end of the thought may be missing in the text
        }
        answer = answer_of(await self.ask(_COMPLETIONS, body))
        if answer.token_ids is None:
            raise CritiqueFailedError("upstream sent no token ids", answer.completion())
        written = split_thought(answer.token_ids, self.encoder, budget)
        return replace(
            answer.completion(),
            text=written.text,
            thinking=written.thought,
            thinking_tokens=written.thought_tokens,
            thinking_truncated=budget <= written.thought_tokens,
        )

    async def _in_two_requests(
        self, prompt: TokenPrompt, sampling: CritiqueSampling, progress: Progress
    ) -> Completion:
        end = self.encoder.thought_end
        body = _sampled(sampling, sampling.thinking_tokens)
        body |= {"prompt": prompt.ids, "return_token_ids": True}
        body |= {"stop_token_ids": [end.ids[0]]} if end.ids else {"stop": [end.marker]}
        answer = answer_of(await self.ask(_COMPLETIONS, body))
        thought: list[int] | str = answer.text
        tokens = answer.completion_tokens
        text = answer.text.partition(end.marker)[0].strip()
        if answer.token_ids is not None:
            written = split_thought(answer.token_ids, self.encoder, sampling.thinking_tokens)
            thought, tokens = answer.token_ids[: written.thought_tokens], written.thought_tokens
            text = written.thought
        first = replace(
            answer.completion(),
            text="",
            thinking=text,
            thinking_tokens=tokens,
            thinking_truncated=answer.is_cut_off,
        )
        progress(first)
        following = self.encoder.after_thought(prompt, thought)
        verdict = await self._verdict(following, replace(sampling, thinking_tokens=0))
        return replace(
            first,
            text=verdict.text,
            finish_reason=verdict.finish_reason,
            completion_tokens=first.completion_tokens + verdict.completion_tokens,
        )


@dataclass
class ChatRoute:
    """Prompts as chat messages, for servers that take no token ids.

    Attributes:
        ask: sends a request.
        is_vllm: whether the server is vLLM.
        has_switches: whether the server takes variables of the chat template, which switch thinking
            on and off.
        template_kwargs: such variables, from the settings.
        reasoning_effort: passed through; None: not sent.
        form: how critiques are constrained.
    """

    ask: Ask
    is_vllm: bool
    has_switches: bool
    template_kwargs: Mapping[str, Any]
    reasoning_effort: str | None
    form: ConstraintForm
    _has_thought: bool = False

    async def complete(self, prompt: ChatPrompt, sampling: CritiqueSampling) -> Completion:
        """Sample one critique."""
        budget = sampling.thinking_tokens
        body = _sampled(sampling, budget + _limit(sampling, self.form))
        body |= {"messages": prompt.messages}
        body |= _constraint(sampling.constraint, self.form, self.is_vllm)
        switches = dict.fromkeys(THINKING_SWITCHES, budget > 0) if self.has_switches else {}
        if variables := switches | dict(self.template_kwargs):
            body["chat_template_kwargs"] = variables
        if self.reasoning_effort is not None:
            body["reasoning_effort"] = self.reasoning_effort
        if budget and self.is_vllm:
            body["thinking_token_budget"] = budget
        answer = answer_of(await self.ask(_CHAT, body))
        if not budget and (answer.thought or answer.thought_tokens):
            self._warn_of_thoughts()
        return chat_completion(answer, sampling)

    def _warn_of_thoughts(self) -> None:
        if not self._has_thought:
            self._has_thought = True
            log.warning(
                "the judge thinks although thinking_tokens is 0, so critiques may end at their "
                "token limit without a verdict; set thinking_tokens to a budget, or turn thinking "
                "off with reasoning_effort=none or at the server"
            )


def _limit(sampling: CritiqueSampling, form: ConstraintForm) -> int:
    """The limit of a verdict.

    The bound of a verdict holds for the grammar; a JSON schema also allows blanks and escapes,
    which take more.
    """
    is_loose = sampling.constraint is not None and form in ("json_schema", "none")
    return 2 * sampling.max_tokens if is_loose else sampling.max_tokens


def _sampled(sampling: CritiqueSampling, max_tokens: int) -> dict[str, Any]:
    body: dict[str, Any] = {
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "max_tokens": max_tokens,
    }
    return body if sampling.seed is None else {**body, "seed": sampling.seed}


def _constraint(
    constraint: Constraint | None, form: ConstraintForm, is_vllm: bool
) -> dict[str, Any]:
    if constraint is None or form == "none":
        return {}
    if form == "structural_tag":
        return {"structured_outputs": {"structural_tag": structural_tag(None, 0, constraint)}}
    if form == "grammar":
        grammar = constraint.grammar()
        return {"structured_outputs": {"grammar": grammar}} if grammar else {}
    schema = constraint.json_schema()
    if schema is None:
        return {}
    if is_vllm:
        return {"structured_outputs": {"json": schema}}
    named = {"name": "verdict", "schema": schema, "strict": True}
    return {"response_format": {"type": "json_schema", "json_schema": named}}
