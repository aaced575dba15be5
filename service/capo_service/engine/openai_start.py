"""What is asked of an OpenAI-compatible server before it judges: its model, and one token."""

from __future__ import annotations

import json
import logging
from typing import Any

import httpx

from capo_service.engine.base import EngineError
from capo_service.engine.openai_answer import completion_of, object_of

log = logging.getLogger(__name__)

_OF_PROXIES = frozenset({403, 407, 502, 503, 504})  # that a proxy may answer for a server


async def model_card(http: httpx.AsyncClient, model: str, through: str) -> dict[str, Any]:
    """The server's entry for the judge; empty where it lists no models.

    Args:
        http: leads to the server.
        model: the judge's name.
        through: what the proxy is called that leads there; empty where there is none.

    Raises:
        ValueError: there is no such server, or it refuses us, or lists other models.
    """
    server = f"upstream {http.base_url}"
    way = f" through {through}" if through else ""
    direct = f"; to reach it without the proxy, add {http.base_url.host} to NO_PROXY"
    direct = direct if through else ""
    try:
        response = await http.get("/models", timeout=10)
        response.raise_for_status()
        cards = {card["id"]: card for card in response.json()["data"]}
    except httpx.HTTPStatusError as error:
        status = error.response.status_code
        if through and status in _OF_PROXIES:
            raise ValueError(f"{server} answers {status}{way}{direct}") from error
        if status in (401, 403):
            raise ValueError(
                f"{server} refuses our key ({status}); set upstream_api_key"
            ) from error
        return {}
    except httpx.HTTPError as error:
        said = str(error) or type(error).__name__
        raise ValueError(f"{server} cannot be reached{way}: {said}{direct}") from error
    except json.JSONDecodeError as error:
        if through:
            said = repr(response.text[:80])
            raise ValueError(f"{server} answers {said}{way}, which is no JSON{direct}") from error
        return {}
    except (KeyError, TypeError, ValueError, RecursionError):
        return {}
    if cards and model not in cards:
        raise ValueError(
            f"{server} has no model {model!r}; it has {', '.join(sorted(map(str, cards))[:20])}"
        )
    return object_of(cards.get(model))


async def check_grammar(http: httpx.AsyncClient, model: str, prompt: list[int]) -> None:
    """Ask for one token under a grammar, and warn where the server does not apply it.

    vLLM with a reasoning parser waits for the end of a thought before it applies a grammar, and
    prompts as we send them show none (vllm-project/vllm issue 57726).
    """
    body = {
        "model": model,
        "prompt": prompt,
        "max_tokens": 1,
        "temperature": 0.0,
        "structured_outputs": {"grammar": 'root ::= "a"'},
    }
    try:
        response = await http.post("/completions", json=body, timeout=30)
        response.raise_for_status()
        said = completion_of(object_of(response.json()), constrained=False).text
    except (httpx.HTTPError, EngineError, ValueError, RecursionError) as error:
        log.warning("whether the upstream applies grammars could not be checked: %s", error)
        return
    if said != "a":
        log.warning(
            "upstream %s does not hold critiques to their grammar (it wrote %r where only 'a' was "
            "allowed), so they may be unreadable. A vLLM server does so with --reasoning-parser: "
            "serve the judge without it, or set critique_format=tag",
            http.base_url,
            said[:40],
        )
