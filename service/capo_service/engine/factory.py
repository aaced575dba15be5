"""The engine that the settings name."""

from __future__ import annotations

import importlib.util

from capo_service.engine.base import Constraint, Engine
from capo_service.settings import Settings
from capo_wire.proxies import Proxy, proxy_for

_NO_VLLM = (
    "the judge runs in vLLM, which {}: pip install 'capo-credit[service,gpu]' (NVIDIA), or "
    "'capo-credit[service,cpu]'. Without vLLM: --engine symbolic (checks arithmetic), or "
    "--engine openai --upstream URL --model NAME"
)


def make_engine(
    settings: Settings, warm_up: Constraint | None = None, thinking_tokens: int = 0
) -> Engine:
    """The engine that the settings name.

    Args:
        settings: of the service.
        warm_up: a constraint of real critiques, which the engine may compile at its start.
        thinking_tokens: the thinking budget of requests that name none.

    Raises:
        ValueError: a package that it needs is not installed.
    """
    if settings.engine == "openai":
        from capo_service.engine.openai import OpenAIEngine

        proxy = _proxy_to(settings.upstream or "")
        key = settings.upstream_api_key
        return OpenAIEngine(
            settings.upstream or "",
            settings.model,
            api_key=key.get_secret_value() if key else None,
            prompt_form=settings.prompt_form,
            tokenizer=settings.tokenizer,
            template_kwargs=settings.chat_template_kwargs,
            thinking_markers=settings.thinking_markers,
            thinking_tokens=thinking_tokens,
            reasoning_effort=settings.reasoning_effort,
            warm_up=warm_up,
            concurrency=settings.upstream_concurrency,
            proxy=proxy.url if proxy else None,
            proxy_name=str(proxy or ""),
        )
    if importlib.util.find_spec("vllm") is None:
        raise ValueError(_NO_VLLM.format("is not installed"))
    try:
        from capo_service.engine.vllm import VllmEngine
    except ModuleNotFoundError as error:
        raise ValueError(_NO_VLLM.format(f"is only partly installed ({error})")) from None

    return VllmEngine(
        settings.model,
        settings.engine_args,
        settings.chat_template_kwargs,
        settings.engine_hang_seconds,
        settings.thinking_markers,
        warm_up,
    )


def _proxy_to(upstream: str) -> Proxy | None:
    import httpx

    proxy = proxy_for(upstream)
    if proxy is not None:
        try:
            httpx.AsyncHTTPTransport(proxy=proxy.url, verify=False)  # never connects
        except (ImportError, ValueError, httpx.InvalidURL) as error:
            raise ValueError(proxy.unusable(upstream, error)) from None
    return proxy
