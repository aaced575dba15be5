"""NeMo Gym with CAPO: a resources server whose `/verify` answers with the rollout's reward.

    # resources_servers/capo/app.py
    from capo_client.adapters.nemo_gym import CapoResourcesServer

    if __name__ == "__main__":
        CapoResourcesServer.run_webserver()

The request's `expected_answer` is the reference. Settings come from CAPO_URL and from CAPO_OPTIONS
(a JSON object with the arguments of `Scorer`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from capo_client.adapters.scoring import Sample, default_scorer


async def verify(body: Mapping[str, Any]) -> dict[str, Any]:
    """A verify request as JSON -> the verify response: the same, with `reward` and our figures.

    Raises:
        RuntimeError: the rollout has no credit.
    """
    reference = body.get("expected_answer")
    turns = body["responses_create_params"]["input"]
    sample = Sample(
        turns if isinstance(turns, str) else [_turn(turn) for turn in turns],
        text=_text(body["response"].get("output", ())),
        reference=None if reference is None else str(reference),
    )
    [scored] = await default_scorer().score([sample])
    if scored.reward is None:
        raise RuntimeError(f"the rollout has no credit: {scored.error}")
    return dict(body) | {"reward": scored.reward} | scored.metrics()


def _turn(turn: Mapping[str, Any]) -> dict[str, Any]:
    return {"role": turn.get("role", "user"), "content": turn.get("content") or ""}


def _text(output: Any) -> str:
    """What the policy wrote, of a Responses API output: the text of its messages."""
    return "".join(
        part["text"]
        for item in output
        if item.get("type") == "message"
        for part in item.get("content", ())
        if part.get("type") == "output_text"
    )


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
        """The verifier of rollouts that have a reference answer."""

        async def verify(self, body: CapoVerifyRequest) -> CapoVerifyResponse:
            return CapoVerifyResponse(**await verify(body.model_dump()))

    # FastAPI reads the annotations, which name classes of this function.
    CapoResourcesServer.verify.__annotations__ = {
        "body": CapoVerifyRequest,
        "return": CapoVerifyResponse,
    }
    return CapoResourcesServer
