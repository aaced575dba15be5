"""NeMo Gym with CAPO: a resources server whose `/verify` returns the rollout's reward.

    # resources_servers/capo/app.py
    from capo_client.adapters.nemo_gym import CapoResourcesServer

    if __name__ == "__main__":
        CapoResourcesServer.run_webserver()

The request's `expected_answer` is the reference. The rollout is a trajectory: the policy's
messages, reasoning and function calls are its turns, and what functions and users answer are
observations, which the judge sees but does not judge. A final answer in them is ignored. Settings
come from CAPO_URL and CAPO_OPTIONS (a JSON object with the arguments of `Scorer`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from capo_client.adapters.scoring import Sample, default_scorer
from capo_client.adapters.turns import content_text


async def verify(body: Mapping[str, Any]) -> dict[str, Any]:
    """A verify request as JSON -> the verify response: the same with `reward` and metrics.

    Raises:
        RuntimeError: the rollout has no credit.
    """
    asked = body["responses_create_params"]
    given = asked["input"]
    sample = Sample(
        given if isinstance(given, str) else chat_turns(given),
        turns=chat_turns(body["response"].get("output") or ()),
        tools=asked.get("tools"),
        reference=body.get("expected_answer"),
    )
    [scored] = await default_scorer().score([sample])
    if scored.reward is None:
        raise RuntimeError(f"the rollout has no credit: {scored.error}")
    return dict(body) | {"reward": scored.reward} | scored.metrics()


def chat_turns(items: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Items of the Responses API as chat turns.

    Reasoning, a message and the calls that follow one another are one turn of the policy.
    """
    turns: list[dict[str, Any]] = []
    for item in items:
        kind = item.get("type", "message")
        if kind == "function_call_output":
            output = {"content": item.get("output")}
            turns.append(_turn("tool", output) | {"tool_call_id": item.get("call_id")})
        elif kind == "function_call":
            call = {"id": item.get("call_id"), "name": item["name"]}
            call["arguments"] = item.get("arguments")
            _open(turns).setdefault("tool_calls", []).append(call)
        elif kind == "reasoning":
            parts = item.get("content") or item.get("summary") or ()
            _open(turns, new=True)["reasoning_content"] = content_text({"content": parts})
        elif kind == "message":
            role = item.get("role", "user")
            turn = _turn(role, item)
            if role == "assistant" and turns and turns[-1].keys() == {"role", "reasoning_content"}:
                turns[-1]["content"] = turn["content"]
            elif turn["content"].strip():
                turns.append(turn)
    return turns


def _turn(role: str, item: Mapping[str, Any]) -> dict[str, Any]:
    return {"role": role, "content": content_text(item)}


def _open(turns: list[dict[str, Any]], new: bool = False) -> dict[str, Any]:
    """The policy's turn that the next item belongs to."""
    if new or not turns or turns[-1]["role"] != "assistant":
        turns.append({"role": "assistant"})
    return turns[-1]


def __getattr__(name: str) -> Any:
    if name == "CapoResourcesServer":
        return _server_class()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _server_class() -> Any:
    from capo_client.adapters.requirement import require

    require("nemo_gym", "nemo-gym", "0.2")
    from nemo_gym.base_resources_server import (
        BaseVerifyRequest,
        BaseVerifyResponse,
        SimpleResourcesServer,
    )
    from pydantic import ConfigDict

    class CapoVerifyRequest(BaseVerifyRequest):
        model_config = ConfigDict(extra="allow")
        expected_answer: Any = None

    class CapoVerifyResponse(BaseVerifyResponse):
        model_config = ConfigDict(extra="allow")

    class CapoResourcesServer(SimpleResourcesServer):
        """Verifies rollouts that have a reference answer."""

        async def verify(self, body: CapoVerifyRequest) -> CapoVerifyResponse:
            return CapoVerifyResponse(**await verify(body.model_dump()))

    # FastAPI evaluates annotations, and these name classes that are local to this function.
    CapoResourcesServer.verify.__annotations__ = {
        "body": CapoVerifyRequest,
        "return": CapoVerifyResponse,
    }
    return CapoResourcesServer
