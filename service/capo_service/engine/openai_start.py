"""Checks of an OpenAI-compatible server before it judges: its models and prompts."""

from __future__ import annotations

import json
import logging
from typing import Any

import httpx

from capo_service.engine.openai_answer import object_of

log = logging.getLogger(__name__)

_PROXY_STATUSES = frozenset(
    {403, 407, 502, 503, 504}
)  # a proxy may return these instead of the server


async def model_card(http: httpx.AsyncClient, model: str, proxy_name: str) -> dict[str, Any]:
    """The server's entry for the judge; empty where it lists no models.

    Args:
        http: client of the server.
        model: the judge's name.
        proxy_name: the proxy for the server, for messages; empty if there is none.

    Raises:
        ValueError: the server cannot be reached, refuses the key, or lists only other models.
    """
    server = f"upstream {http.base_url}"
    way = f" through {proxy_name}" if proxy_name else ""
    direct = f"; to reach it without the proxy, add {http.base_url.host} to NO_PROXY"
    direct = direct if proxy_name else ""
    try:
        response = await http.get("/models", timeout=10)
        response.raise_for_status()
        cards = {card["id"]: card for card in response.json()["data"]}
    except httpx.HTTPStatusError as error:
        status = error.response.status_code
        if proxy_name and status in _PROXY_STATUSES:
            raise ValueError(f"{server} returns {status}{way}{direct}") from error
        if status in (401, 403):
            raise ValueError(
                f"{server} refuses the API key ({status}); set upstream_api_key"
            ) from error
        return {}
    except httpx.HTTPError as error:
        reason = str(error) or type(error).__name__
        raise ValueError(f"{server} cannot be reached{way}: {reason}{direct}") from error
    except json.JSONDecodeError as error:
        if proxy_name:
            body = repr(response.text[:80])
            raise ValueError(f"{server} returns {body}{way}, which is not JSON{direct}") from error
        return {}
    except (KeyError, TypeError, ValueError, RecursionError):
        return {}
    if cards and model not in cards:
        raise ValueError(
            f"{server} has no model {model!r}; it has {', '.join(sorted(map(str, cards))[:20])}"
        )
    return object_of(cards.get(model))


def no_token_ids(error: ValueError, root: object, tokenizer: str) -> ValueError:
    """The error of a start without the judge's tokenizer; chat text is sent only when asked for.

    Args:
        error: why the tokenizer cannot be loaded.
        root: what the server says that it loaded the judge from, if it does.
        tokenizer: hub name or folder that was tried.
    """
    hint = f" (the server loaded the judge from {root})" if root and root != tokenizer else ""
    return ValueError(
        f"prompts cannot be sent as token ids: {error}. Set tokenizer to the judge's Hugging Face "
        f"name or to a folder{hint}, and let this process reach the hub on port 443 or find the "
        "files under HF_HOME; or set prompt_form=chat to send chat text, with the control strings "
        "of rollouts escaped"
    )


def check_chat_text(tokenizer: str | None, server: httpx.URL) -> None:
    """Refuse chat text where a tokenizer was given; elsewhere log that chat text is sent.

    Raises:
        ValueError: `tokenizer` is given, and would be ignored.
    """
    if tokenizer is not None:
        raise ValueError(
            f"tokenizer={tokenizer} would be ignored: upstream {server} does not say that it is "
            "vLLM. Set prompt_form=tokens if it takes token ids on /v1/completions, or "
            "prompt_form=chat and no tokenizer to send chat text"
        )
    log.info(
        "upstream %s does not say that it is vLLM: prompts are sent as chat text, with the control "
        "strings of rollouts escaped",
        server,
    )
