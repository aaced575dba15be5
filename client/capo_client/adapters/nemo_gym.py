"""NeMo Gym with CAPO: a resources server whose `/verify` returns the rollout's reward.

    # resources_servers/capo/app.py
    from capo_client.adapters.nemo_gym import CapoResourcesServer

    if __name__ == "__main__":
        CapoResourcesServer.run_webserver()

The request's `expected_answer` is the reference. The rollout is the text of the policy's messages,
each a turn. Function calls, their outputs and messages of users are not judged; a final answer in
them is ignored. Settings come from CAPO_URL and CAPO_OPTIONS (a JSON object with the arguments of
`Scorer`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from capo_client.adapters.scoring import Sample, default_scorer
from capo_client.adapters.turns import content_text, policy_text


async def verify(body: Mapping[str, Any]) -> dict[str, Any]:
    """A verify request as JSON -> the verify response: the same with `reward` and metrics.

    Raises:
        RuntimeError: the rollout has no credit.
    """
    turns = body["responses_create_params"]["input"]
    sample = Sample(
        turns if isinstance(turns, str) else _chat(turns),
        text=policy_text(map(_turn, _messages(body["response"].get("output") or ()))),
        reference=body.get("expected_answer"),
    )
    [scored] = await default_scorer().score([sample])
    if scored.reward is None:
        raise RuntimeError(f"the rollout has no credit: {scored.error}")
    return dict(body) | {"reward": scored.reward} | scored.metrics()


def _chat(items: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [turn for turn in map(_turn, _messages(items)) if turn["content"].strip()]


def _messages(items: Iterable[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    """The messages among items of the Responses API, without calls, outputs and reasoning."""
    return (item for item in items if item.get("type", "message") == "message")


def _turn(item: Mapping[str, Any]) -> dict[str, Any]:
    return {"role": item.get("role", "user"), "content": content_text(item)}


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
