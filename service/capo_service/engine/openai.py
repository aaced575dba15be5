"""The judge behind any OpenAI-compatible server: vllm serve, SGLang, a hosted API.

A vLLM server gets the prompt as token ids, so that no text of a rollout can become a control token.
For servers that only take chat text, control strings in untrusted text are escaped
(`control_tokens`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
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
from capo_service.engine.openai_probe import Probe
from capo_service.engine.openai_refusals import Refusals
from capo_service.engine.openai_routes import ChatRoute, TokenRoute
from capo_service.engine.openai_start import check_chat_text, model_card, no_token_ids
from capo_service.engine.openai_upstream import RefusedError, Upstream
from capo_service.engine.prompt_encoder import PromptEncoder

_OWN_SERVERS = ("vllm", "sglang")  # `owned_by` of servers that take variables of chat templates


@dataclass
class _Call:
    """A critique that is being sampled; `so_far`: what is known of it before its end."""

    task: asyncio.Task[Completion]
    so_far: Completion


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
        thinking_tokens: the thinking budget of requests that name none, for the check of the
            server.
        reasoning_effort: sent with chat messages, and given to the chat template; None: neither.
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
        thinking_tokens: int = 0,
        reasoning_effort: str | None = None,
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
        self._thinking_tokens = thinking_tokens
        self._reasoning_effort = reasoning_effort
        self._warm_up = warm_up
        self._route: TokenRoute | ChatRoute | None = None
        self._calls: dict[str, _Call] = {}
        self._lost: set[asyncio.Task[Completion]] = set()
        given = {"reasoning_effort": reasoning_effort, "chat_template_kwargs": template_kwargs}
        self._refusals = Refusals([name for name, value in given.items() if value])
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
        server = str(card.get("owned_by"))
        is_vllm = server == "vllm"
        route: TokenRoute | ChatRoute
        if self._prompt_form == "tokens" or (self._prompt_form == "auto" and is_vllm):
            route = await self._token_route(is_vllm, card.get("root"))
        else:
            if self._prompt_form == "auto":
                check_chat_text(self._tokenizer if self._names_tokenizer else None, http.base_url)
            route = ChatRoute(
                self._ask,
                is_vllm,
                server in _OWN_SERVERS,
                self._template_kwargs,
                self._reasoning_effort,
                "grammar" if is_vllm else "json_schema",
            )
        self._route = route
        # Free text of a judge that does not think is not constrained.
        if isinstance(route, TokenRoute) or self._warm_up is not None or self._thinking_tokens:
            probe = Probe(route, self.encode, str(http.base_url), self._warm_up)
            await probe.run(self._thinking_tokens)
        self._upstream.watch()
        length = card.get("max_model_len")
        return JudgeLimits(
            slots=self._concurrency,
            context_length=length if type(length) is int and length > 0 else None,
            tokenizer_json=route.encoder.tokenizer_json if isinstance(route, TokenRoute) else None,
            constraint=route.form,
            thinking_markers=route.encoder.markers.texts if isinstance(route, TokenRoute) else None,
        )

    async def _token_route(self, is_vllm: bool, root: object) -> TokenRoute:
        effort = self._reasoning_effort
        variables = {} if effort is None else {"reasoning_effort": effort}
        try:
            encoder = await asyncio.to_thread(
                PromptEncoder,
                self._tokenizer,
                variables | self._template_kwargs,
                self._thinking_markers,
            )
        except ValueError as error:
            raise no_token_ids(error, root, self._tokenizer) from error
        return TokenRoute(self._ask, encoder, is_vllm, "grammar" if is_vllm else "json_schema")

    async def close(self) -> None:
        await self._upstream.close()

    async def metrics(self) -> bytes:
        return await self._upstream.metrics()

    def encode(self, prompt: JudgePrompt) -> EncodedPrompt:
        if isinstance(self._route, TokenRoute):
            return self._route.encoder.encode(prompt)
        turns = [("system", prompt.system), ("user", prompt.user)]
        return ChatPrompt(
            [{"role": role, "content": _text(segments)} for role, segments in turns if segments]
        )

    async def complete(
        self, request: str, prompt: EncodedPrompt, sampling: CritiqueSampling
    ) -> Completion:
        task = asyncio.create_task(self._complete(request, prompt, sampling))
        call = _Call(task, Completion("", FINISHED_EARLY, prompt.tokens or 0))
        self._calls[request] = call
        try:
            return await task
        except asyncio.CancelledError:
            if task in self._lost:
                raise EngineDeadError("upstream no longer responds") from None
            if self._calls.get(request) is call:
                task.cancel()
                raise
            return replace(call.so_far, finish_reason=FINISHED_EARLY)
        finally:
            self._calls.pop(request, None)
            self._lost.discard(task)

    async def abort(self, request: str) -> None:
        call = self._calls.pop(request, None)
        if call is not None:
            call.task.cancel()  # closing the connection makes the server drop the request

    def _lose_calls(self) -> None:
        for call in self._calls.values():
            self._lost.add(call.task)
            call.task.cancel()

    async def _complete(
        self, request: str, prompt: EncodedPrompt, sampling: CritiqueSampling
    ) -> Completion:
        def progress(so_far: Completion) -> None:
            if (call := self._calls.get(request)) is not None:
                call.so_far = so_far

        route = self._route
        if isinstance(prompt, TokenPrompt):
            assert isinstance(route, TokenRoute), "encoded by another engine"  # noqa: S101
            return await route.complete(prompt, sampling, progress)
        assert isinstance(route, ChatRoute), "start() comes first"  # noqa: S101
        return await route.complete(prompt, sampling)

    async def _ask(self, route: str, body: dict[str, Any]) -> dict[str, Any]:
        """Send a request without what the upstream refuses."""
        while True:
            sent = self._refusals.accepted({"model": self.model, **body})
            try:
                return await self._upstream.post(route, sent)
            except RefusedError as error:
                if not self._refusals.learn(error, sent):
                    raise self._refusals.explained(error) from error


def _text(segments: tuple[PromptSegment, ...]) -> str:
    return "".join(text if trusted else control_tokens.escape(text) for text, trusted in segments)
