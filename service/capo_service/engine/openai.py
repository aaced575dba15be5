"""The judge behind any OpenAI-compatible server: vllm serve, SGLang, a hosted API.

To a vLLM server the prompt is sent as token ids, so that no text of a rollout can become a control
token. Where only chat text is possible, control strings in untrusted text are escaped (`control`).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Mapping
from typing import Any, Literal

import httpx

from capo_service.engine import control_tokens
from capo_service.engine.base import (
    FINISHED_EARLY,
    ChatPrompt,
    Completion,
    CritiqueSampling,
    EncodedPrompt,
    EngineBusyError,
    EngineDeadError,
    EngineError,
    EngineStatus,
    JudgeLimits,
    JudgePrompt,
    PromptSegment,
    TokenPrompt,
    engine_metrics,
)
from capo_service.engine.openai_answer import completion_of, object_of
from capo_service.engine.openai_start import check_grammar, model_card
from capo_service.engine.prompt_encoder import PromptEncoder

log = logging.getLogger(__name__)

_ATTEMPTS = 4
_BACKOFF_SECONDS = 0.5  # doubled at each attempt, with jitter
_LONGEST_WAIT_SECONDS = 10.0
_WARNING_SECONDS = 10.0  # between two log lines about an upstream that is waited for
# What a proxy, a restart or a burst answers for a while; 52x are Cloudflare's, 529 is "overloaded".
_BUSY = frozenset({429, 529})
_PASSING = _BUSY | {408, 500, 502, 503, 504, *range(520, 531)}
_PROBE_SECONDS = 1.25  # between two, and the longest that one may take
_MOST_SILENT = 2  # probes in a row without an answer, and the server counts as lost


class OpenAIEngine:
    """Asks an OpenAI-compatible server.

    Args:
        upstream: base URL, with or without `/v1`.
        model: the name that the server knows the judge by.
        prompt_form: `tokens` sends ids to the completions route, `chat` sends text; `auto` sends
            ids where the server is vLLM and the judge's tokenizer can be loaded.
        tokenizer: hub name or folder of the judge's tokenizer, if not `model`.
        concurrency: calls at once.
        constrained: whether critiques are to be decoded under a grammar.
        proxy: URL of the proxy that leads to it; none of the environment is taken.
        proxy_name: what messages call that proxy, with the variable that names it.
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
        constrained: bool = True,
        proxy: str | None = None,
        proxy_name: str = "",
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self.model = model
        self._concurrency = concurrency
        self._prompt_form = prompt_form
        self._tokenizer = tokenizer or model
        self._template_kwargs = dict(template_kwargs or {})
        self._constrains = constrained
        self._encoder: PromptEncoder | None = None
        self._is_vllm = False
        self._ready = False
        self._calls: dict[str, asyncio.Task[Completion]] = {}
        self._lost: set[asyncio.Task[Completion]] = set()
        self._answers = 0
        self._waits = 0
        self._next_warning = 0.0
        self._watch: asyncio.Task[None] | None = None
        server: dict[str, Any] = {
            "base_url": upstream.rstrip("/").removesuffix("/v1") + "/v1",
            "headers": {"Authorization": f"Bearer {api_key}"} if api_key else {},
            "transport": transport,
            "proxy": proxy,
            "verify": httpx.create_ssl_context(),  # heeds SSL_CERT_FILE, as trust_env would
            "trust_env": False,
        }
        self._through = (proxy_name or proxy) if proxy else ""
        self._http = httpx.AsyncClient(
            timeout=httpx.Timeout(None, connect=5.0),  # a deadline is the caller's to set
            limits=httpx.Limits(max_connections=concurrency, max_keepalive_connections=concurrency),
            **server,
        )
        self._prober = httpx.AsyncClient(**server)  # does not wait for a connection behind calls

    @property
    def status(self) -> EngineStatus:
        return EngineStatus(self._ready)  # never dead: the server may come back

    async def start(self) -> JudgeLimits:
        card = await model_card(self._http, self.model, self._through)
        self._is_vllm = card.get("owned_by") == "vllm"
        length = card.get("max_model_len")
        if self._prompt_form == "tokens" or (self._prompt_form == "auto" and self._is_vllm):
            try:
                self._encoder = await asyncio.to_thread(
                    PromptEncoder, self._tokenizer, self._template_kwargs
                )
            except ValueError as error:
                if self._prompt_form == "tokens":
                    raise
                log.warning("sending chat text, control strings escaped: %s", error)
        if self._encoder is not None and self._constrains:
            trial = JudgePrompt((("Say yes or no.", True),), (("Is 2 + 2 = 4?", True),))
            await check_grammar(self._http, self.model, self._encoder.encode(trial))
        self._ready = True
        self._watch = asyncio.create_task(self._watch_upstream())
        return JudgeLimits(
            slots=self._concurrency,
            context_length=length if type(length) is int and length > 0 else None,
            tokenizer_json=self._encoder.tokenizer_json if self._encoder else None,
        )

    async def metrics(self) -> bytes:
        root = str(self._http.base_url).rstrip("/").removesuffix("/v1")
        try:
            response = await self._http.get(f"{root}/metrics", timeout=2)
        except httpx.HTTPError:
            return b""
        is_text = response.headers.get("content-type", "").startswith("text/plain")
        return engine_metrics(response.content) if response.status_code == 200 and is_text else b""

    async def _watch_upstream(self) -> None:
        """Ask the server whether it is there; calls to one that is lost do not wait for it."""
        silent = 0
        while True:
            answers = self._answers
            await asyncio.sleep(_PROBE_SECONDS / (1 + silent))
            try:
                response = await self._prober.get("/models", timeout=_PROBE_SECONDS)
            except httpx.HTTPError:
                # One that is only busy answers calls.
                silent = silent + 1 if self._answers == answers else 0
                if silent >= _MOST_SILENT:
                    self._ready = False
                    self._lose_calls()
            else:
                silent = 0
                self._ready = response.status_code < 500

    def _lose_calls(self) -> None:
        for call in self._calls.values():
            self._lost.add(call)
            call.cancel()

    async def close(self) -> None:
        if self._watch is not None:
            self._watch.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._watch
            self._watch = None
        self._ready = False
        await self._http.aclose()
        await self._prober.aclose()

    def encode(self, prompt: JudgePrompt) -> EncodedPrompt:
        if self._encoder is not None:
            return TokenPrompt(self._encoder.encode(prompt), prompt.opening, self._encoder.thought)
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
                raise EngineDeadError("upstream does not answer any more") from None
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

    async def _complete(self, prompt: EncodedPrompt, sampling: CritiqueSampling) -> Completion:
        tokens = isinstance(prompt, TokenPrompt)
        body: dict[str, Any] = {
            "model": self.model,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "max_tokens": sampling.max_tokens,
            **self._constraint(sampling),
        }
        if isinstance(prompt, TokenPrompt):
            body["prompt"] = prompt.ids
        else:
            body["messages"] = prompt.messages
        if sampling.grammar is not None and not self._is_vllm:
            # A JSON schema leaves blanks and escapes free, which the bound does not count.
            body["max_tokens"] = 2 * sampling.max_tokens
        if sampling.seed is not None:
            body["seed"] = sampling.seed
        if self._template_kwargs and not tokens:
            body["chat_template_kwargs"] = self._template_kwargs
        answer = await self._post("/completions" if tokens else "/chat/completions", body)
        return completion_of(answer, constrained=sampling.grammar is not None)

    def _constraint(self, sampling: CritiqueSampling) -> dict[str, Any]:
        if sampling.grammar is None:
            return {}
        if self._is_vllm:
            return {"structured_outputs": {"grammar": sampling.grammar}}
        schema = {"name": "verdict", "schema": sampling.json_schema, "strict": True}
        return {"response_format": {"type": "json_schema", "json_schema": schema}}

    async def _post(self, route: str, body: dict[str, Any]) -> dict[str, Any]:
        for attempt in range(1, _ATTEMPTS + 1):
            wait = _BACKOFF_SECONDS * 2**attempt * random.uniform(0.5, 1)  # noqa: S311  # jitter
            try:
                response = await self._http.post(route, json=body)
                self._answers += 1
            except httpx.TransportError as error:
                if attempt < _ATTEMPTS:
                    self._warn(f"cannot be reached ({error!r})")
                    await asyncio.sleep(wait)
                    continue
                self._ready = False
                way = f" through {self._through}" if self._through else ""
                raise EngineDeadError(f"upstream cannot be reached{way}: {error!r}") from error
            except httpx.RequestError as error:  # an answer that cannot be decoded
                raise EngineError(f"upstream sent nothing that can be read: {error!r}") from error
            if response.status_code in _PASSING and attempt < _ATTEMPTS:
                self._warn(f"answers {response.status_code}")
                await asyncio.sleep(max(wait, _retry_after(response)))
                continue
            return self._body(response)
        raise AssertionError("the last attempt returns or raises")

    def _warn(self, said: str) -> None:
        """Log that a call waits for the upstream; not for each of the hundreds that do."""
        self._waits += 1
        now = time.monotonic()
        if now >= self._next_warning:
            self._next_warning = now + _WARNING_SECONDS
            log.warning("upstream %s; trying again (%d times so far)", said, self._waits)

    def _body(self, response: httpx.Response) -> dict[str, Any]:
        if response.is_success:
            try:
                return object_of(response.json())
            except (ValueError, RecursionError) as error:
                raise EngineError("upstream sent no JSON") from error
        status = response.status_code
        said = f"upstream answered {status}: {response.text[:300]}"
        if status in _BUSY:
            raise EngineBusyError(said)
        # 500 may be this one critique's: the server is lost only where it is not ready either.
        if status in _PASSING and (status != 500 or not self._ready):
            raise EngineDeadError(said)
        raise EngineError(said)


def _retry_after(response: httpx.Response) -> float:
    try:
        return min(float(response.headers.get("retry-after", "0")), _LONGEST_WAIT_SECONDS)
    except ValueError:  # a date: our own backoff serves as well
        return 0.0


def _text(segments: tuple[PromptSegment, ...]) -> str:
    return "".join(text if trusted else control_tokens.escape(text) for text, trusted in segments)
