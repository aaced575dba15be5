"""NeMo Gym with CAPO: a resources server whose `/verify` returns the rollout's reward.

    # resources_servers/capo/app.py
    from capo_client.adapters.nemo_gym import CapoResourcesServer

    if __name__ == "__main__":
        CapoResourcesServer.run_webserver()

The request's `expected_answer` is the reference. The rollout is a trajectory: the policy's
messages, reasoning and tool calls are its turns, and what tools and users answer are observations,
which the judge sees but does not judge. A final answer in them is ignored.

NeMo Gym's trainers take one number, `reward`: the mean over the policy's characters. The response
also has `capo_item_rewards`, for a trainer of your own: for each item of `response.output`, the
reward of its turn, or null where the policy did not write it.

Settings come from CAPO_URL and CAPO_OPTIONS (a JSON object with the arguments of `Scorer`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from capo_client.adapters.conversations import rewards_of_turns
from capo_client.adapters.responses_api import chat_turns, turns_of_items
from capo_client.adapters.scoring import Sample, Scored, default_scorer


async def verify(body: Mapping[str, Any]) -> dict[str, Any]:
    """A verify request as JSON -> the verify response: the same with `reward` and metrics.

    Raises:
        RuntimeError: the rollout has no credit.
    """
    asked = body["responses_create_params"]
    given = asked["input"]
    turns, places = turns_of_items(body["response"].get("output") or ())
    sample = Sample(
        given if isinstance(given, str) else chat_turns(given),
        turns=turns,
        tools=asked.get("tools"),
        reference=body.get("expected_answer"),
    )
    [scored] = await default_scorer().score([sample])
    if scored.reward is None:
        raise RuntimeError(f"the rollout has no credit: {scored.error}")
    by_item = {"capo_item_rewards": _by_item(turns, places, scored)}
    return dict(body) | {"reward": scored.reward} | by_item | scored.metrics()


def _by_item(
    turns: Sequence[Mapping[str, Any]], places: Sequence[int | None], scored: Scored
) -> list[float | None]:
    """The mean reward of each item's turn; None for an item that the policy did not write."""
    rewards = rewards_of_turns(turns, scored)
    return [None if place is None else rewards[place] for place in places]


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
