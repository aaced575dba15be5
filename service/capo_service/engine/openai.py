"""The judge behind any OpenAI-compatible server: vllm serve, SGLang, a hosted API.

A vLLM server gets the prompt as token ids, so that no text of a rollout can become a control token.
For servers that only take chat text, control strings in untrusted text are escaped
(`control_tokens`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import httpx

from capo_service.engine import control_tokens
from capo_service.engine.base import (
    FINISHED_EARLY,
    ChatPrompt,
    Completion,
    Constraint,
    CritiqueSampling,
    EncodedPrompt,
    EngineDeadError,
    EngineStatus,
    JudgeLimits,
    JudgePrompt,
    PromptSegment,
    TokenPrompt,
)
from capo_service.engine.openai_answer import completion_of
from capo_service.engine.openai_start import (
    check_chat_text,
    check_grammar,
    model_card,
    no_token_ids,
)
from capo_service.engine.openai_upstream import Upstream
from capo_service.engine.prompt_encoder import PromptEncoder


class OpenAIEngine:
    """Samples critiques from an OpenAI-compatible server.

    Args:
        upstream: base URL, with or without `/v1`.
        model: the judge's name on the server.
        prompt_form: `tokens` sends ids to the completions route, `chat` sends text; `auto` sends
            ids where the server is vLLM, and text elsewhere.
        tokenizer: hub name or folder of the judge's tokenizer, if not `model`.
        concurrency: maximum number of concurrent calls.
        thinking_markers: opening and closing text of the judge's thoughts; None: found.
        warm_up: a constraint of real critiques, for the check of the server; None: critiques are
            free text.
        proxy: URL of the proxy for the server; environment variables are not read.
        proxy_name: the proxy and its environment variable, for messages.
        transport: replaces the network in tests.
    """

    kind = "openai"

    def __init__(
        self,
        upstream: str,
        model: str,
        *,
        api_key: str | None = None,
        prompt_form: Literal["auto", "tokens", "chat"] = "auto",
        tokenizer: str | None = None,
        template_kwargs: Mapping[str, Any] | None = None,
        concurrency: int = 256,
        thinking_markers: Sequence[str] | None = None,
        warm_up: Constraint | None = None,
        proxy: str | None = None,
        proxy_name: str = "",
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self.model = model
        self._concurrency = concurrency
        self._prompt_form = prompt_form
        self._tokenizer = tokenizer or model
        self._names_tokenizer = tokenizer is not None
        self._template_kwargs = dict(template_kwargs or {})
        self._thinking_markers = thinking_markers
        self._warm_up = warm_up
        self._encoder: PromptEncoder | None = None
        self._is_vllm = False
        self._calls: dict[str, asyncio.Task[Completion]] = {}
        self._lost: set[asyncio.Task[Completion]] = set()
        self._upstream = Upstream(
            upstream,
            api_key=api_key,
            connections=concurrency,
            proxy=proxy,
            proxy_name=proxy_name,
            on_lost=self._lose_calls,
            transport=transport,
        )

    @property
    def status(self) -> EngineStatus:
        return EngineStatus(ready=self._upstream.ready)  # never dead: the server may come back

    async def start(self) -> JudgeLimits:
        http = self._upstream.http
        card = await model_card(http, self.model, self._upstream.proxy_name)
        self._is_vllm = card.get("owned_by") == "vllm"
        if self._prompt_form == "tokens" or (self._prompt_form == "auto" and self._is_vllm):
            try:
                self._encoder = await asyncio.to_thread(
                    PromptEncoder, self._tokenizer, self._template_kwargs, self._thinking_markers
                )
            except ValueError as error:
                raise no_token_ids(error, card.get("root"), self._tokenizer) from error
        elif self._prompt_form == "auto":
            check_chat_text(self._tokenizer if self._names_tokenizer else None, http.base_url)
        if self._encoder is not None and self._warm_up is not None:
            trial = JudgePrompt((("Say yes or no.", True),), (("Is 2 + 2 = 4?", True),))
            await check_grammar(http, self.model, self._encoder.encode(trial).ids)
        self._upstream.watch()
        length = card.get("max_model_len")
        return JudgeLimits(
            slots=self._concurrency,
            context_length=length if type(length) is int and length > 0 else None,
            tokenizer_json=self._encoder.tokenizer_json if self._encoder else None,
            constraint="grammar" if self._is_vllm else "json_schema",
        )

    async def close(self) -> None:
        await self._upstream.close()

    async def metrics(self) -> bytes:
        return await self._upstream.metrics()

    def encode(self, prompt: JudgePrompt) -> EncodedPrompt:
        if self._encoder is not None:
            return self._encoder.encode(prompt)
        turns = [("system", prompt.system), ("user", prompt.user)]
        return ChatPrompt(
            [{"role": role, "content": _text(segments)} for role, segments in turns if segments]
        )

    async def complete(
        self, request: str, prompt: EncodedPrompt, sampling: CritiqueSampling
    ) -> Completion:
        call = asyncio.create_task(self._complete(prompt, sampling))
        self._calls[request] = call
        try:
            return await call
        except asyncio.CancelledError:
            if call in self._lost:
                raise EngineDeadError("upstream no longer responds") from None
            if self._calls.get(request) is call:
                call.cancel()
                raise
            return Completion("", FINISHED_EARLY, prompt.tokens or 0)
        finally:
            self._calls.pop(request, None)
            self._lost.discard(call)

    async def abort(self, request: str) -> None:
        call = self._calls.pop(request, None)
        if call is not None:
            call.cancel()  # closing the connection makes the server drop the request

    def _lose_calls(self) -> None:
        for call in self._calls.values():
            self._lost.add(call)
            call.cancel()

    async def _complete(self, prompt: EncodedPrompt, sampling: CritiqueSampling) -> Completion:
        body: dict[str, Any] = {
            "model": self.model,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "max_tokens": sampling.max_tokens,
            **self._constraint(sampling),
        }
        if sampling.constraint is not None and not self._is_vllm:
            # The token limit is counted from the grammar; a JSON schema also allows blanks and
            # escapes, which take more.
            body["max_tokens"] = 2 * sampling.max_tokens
        if sampling.seed is not None:
            body["seed"] = sampling.seed
        match prompt:
            case TokenPrompt(ids):
                route = "/completions"
                body["prompt"] = ids
            case ChatPrompt(messages):
                route = "/chat/completions"
                body["messages"] = messages
                if self._template_kwargs:
                    body["chat_template_kwargs"] = self._template_kwargs
        answer = await self._upstream.post(route, body)
        return completion_of(answer, constrained=sampling.constraint is not None)

    def _constraint(self, sampling: CritiqueSampling) -> dict[str, Any]:
        if sampling.constraint is None:
            return {}
        if self._is_vllm:
            return {"structured_outputs": {"grammar": sampling.constraint.grammar()}}
        schema = {"name": "verdict", "schema": sampling.constraint.json_schema(), "strict": True}
        return {"response_format": {"type": "json_schema", "json_schema": schema}}


def _text(segments: tuple[PromptSegment, ...]) -> str:
    return "".join(text if trusted else control_tokens.escape(text) for text, trusted in segments)
