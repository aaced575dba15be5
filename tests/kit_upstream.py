"""OpenAI-compatible servers for tests of the openai engine, as transports."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import httpx

from capo_service.core.verdicts.step_list import StepList
from capo_service.engine.base import CritiqueSampling, JudgeLimits
from capo_service.engine.openai import OpenAIEngine
from capo_service.engine.prompt_encoder import PromptEncoder

SHAPE = StepList(3, 20)
VERDICT = '{"analysis": "Sum.", "incorrect_steps": [1]}'
SCHEMA_VERDICT = {"QZ7": {"incorrect_steps": []}}


def sampling(budget: int = 0, **given: Any) -> CritiqueSampling:
    return CritiqueSampling(
        **{
            "temperature": 0.7,
            "top_p": 0.9,
            "max_tokens": 64,
            "seed": 5,
            "constraint": SHAPE,
            "thinking_tokens": budget,
            **given,
        }
    )


@dataclass
class FakeVllm:
    """The completions route of a vLLM server, which applies constraints or not.

    Attributes:
        judge: the tokenizer of the model that it serves.
        takes: kinds of constraint that it takes; it answers 400 to others.
        bounds: whether it bounds the texts of a structural tag.
        has_parser: it applies constraints behind a thought only, as with --reasoning-parser.
        returns_ids: whether it returns token ids.
        applies: whether it applies the constraint of its n-th request.
        status: what it answers in place of 200.
        thought: what the judge thinks.
        closes: whether the judge ends its thoughts by itself.
    """

    judge: PromptEncoder
    takes: tuple[str, ...] = ("structural_tag", "grammar", "json")
    bounds: bool = True
    has_parser: bool = False
    returns_ids: bool = True
    applies: Callable[[int], bool] = lambda _: True
    status: int = 200
    thought: str = "I add both."
    closes: bool = True
    hangs: Callable[[dict[str, Any]], bool] = lambda _: False
    bodies: list[dict[str, Any]] = field(default_factory=list)

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/models"):
            card = {"id": "judge", "owned_by": "vllm", "max_model_len": 4096}
            return httpx.Response(200, json={"data": [card]})
        assert request.url.path == "/v1/completions"
        body = json.loads(request.content)
        self.bodies.append(body)
        if self.hangs(body):
            await asyncio.sleep(600)
        if self.status != 200:
            return httpx.Response(self.status, text="planned", headers={"Retry-After": "0"})
        [(kind, constraint)] = body.get("structured_outputs", {"": None}).items()
        if kind and kind not in self.takes:
            return httpx.Response(400, json={"error": {"message": f"no {kind} here"}})
        ids = self._ids(body, kind, constraint)[: body["max_tokens"]]
        choice: dict[str, Any] = {
            "text": self.judge.decode(ids),
            "finish_reason": "length" if len(ids) >= body["max_tokens"] else "stop",
        }
        if body.get("return_token_ids") and self.returns_ids:
            choice["token_ids"] = ids
        usage = {"prompt_tokens": len(body["prompt"]), "completion_tokens": len(ids)}
        return httpx.Response(200, json={"choices": [choice], "usage": usage})

    def _ids(self, body: dict[str, Any], kind: str, constraint: Any) -> list[int]:
        if not kind:
            inside = self._encode(self.thought)
            return [*inside, *self.closing] if self.closes else inside
        if not self.applies(len(self.bodies)) or (self.has_parser and not self._behind(body)):
            return self._encode("Okay, let me see")
        text = constraint if isinstance(constraint, str) else json.dumps(constraint)
        if kind == "json":
            return self._encode('{"QZ7": {' if "QZ7" in text else '{"incorrect_steps": [1]}')
        gap = "a" if self.bounds else " a word" * 30
        second = gap + "QZ9" if kind == "structural_tag" else ""
        written = self._encode(f"QZ7{second}" if "QZ7" in text else VERDICT)
        if kind == "structural_tag":
            first = json.loads(text)["format"]["elements"][0]
            if first["type"] == "tag":
                budget = first["content"]["max_tokens"]
                return [*self._encode(self.thought)[:budget], *self.closing, *written]
        return written

    @property
    def closing(self) -> list[int]:
        return self.judge._trusted.encode(self.judge.markers.closing).ids

    def _behind(self, body: dict[str, Any]) -> bool:
        """As vLLM's parser for DeepSeek R1 looks for the end of a thought in the prompt."""
        [start] = self.judge._trusted.encode(self.judge.markers.opening.strip()).ids
        for index in reversed(body["prompt"]):
            if index in (start, self.closing[0]):
                return bool(index == self.closing[0])
        return False

    def _encode(self, text: str) -> list[int]:
        return self.judge._untrusted.encode(text, add_special_tokens=False).ids


class Hosted:
    """The chat route of a hosted API, which answers each request with `reply(body)`.

    It answers the first `at_once` requests when all of them have come.
    """

    at_once = 1

    def __init__(
        self, reply: Callable[[dict[str, Any]], httpx.Response], owner: str | None = None
    ) -> None:
        self.reply = reply
        self.card = {"id": "judge"} if owner is None else {"id": "judge", "owned_by": owner}
        self.bodies: list[dict[str, Any]] = []

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/models"):
            return httpx.Response(200, json={"data": [self.card]})
        assert request.url.path == "/v1/chat/completions"
        body = json.loads(request.content)
        self.bodies.append(body)
        while len(self.bodies) < self.at_once:
            await asyncio.sleep(0.001)
        return self.reply(body)


def said(content: Any, finish: str = "stop", usage: Any = None, **message: Any) -> httpx.Response:
    choice = {"message": {"content": content, **message}, "finish_reason": finish}
    return httpx.Response(200, json={"choices": [choice], "usage": usage})


def verdict_for(body: dict[str, Any]) -> str:
    """What a judge writes that keeps to its constraint."""
    schema = body.get("response_format", {}).get("json_schema", {}).get("schema", {})
    return json.dumps(SCHEMA_VERDICT) if "QZ7" in schema.get("properties", {}) else VERDICT


class StartedEngine(OpenAIEngine):
    """An engine that keeps what its start returned."""

    limits = JudgeLimits()

    async def start(self) -> JudgeLimits:
        self.limits = await super().start()
        return self.limits


async def started(server: Any, **given: Any) -> StartedEngine:
    judge = StartedEngine(
        "http://up", "judge", transport=httpx.MockTransport(server), **{"warm_up": SHAPE, **given}
    )
    await judge.start()
    return judge
