"""Sampling by an OpenAI-compatible server."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import httpx
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from capo_trainer.errors import SamplingError
from capo_trainer.sampling.base import FinishedRollouts, stream_seed
from capo_trainer.sections import Sampling
from capo_trainer.types import SampledRollout, SampleRequest

_TIMEOUT_SECONDS = 600.0
_CONCURRENCY = 64


class ServerSampler:
    """A `Sampler` over a server that takes token ids and returns them (vLLM does)."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        settings: Sampling,
        seed: int,
        weights: Path,
    ) -> None:
        self._tokenizer = tokenizer
        self._settings = settings
        self._seed = seed
        self._weights = weights
        self._http = httpx.Client(timeout=_TIMEOUT_SECONDS)
        self._url = (settings.url or "").rstrip("/")
        self._model = settings.served_model or self._only_model()

    def sample(
        self,
        model: PreTrainedModel | None,
        requests: Sequence[SampleRequest],
        *,
        greedy: bool = False,
    ) -> FinishedRollouts:
        pool = ThreadPoolExecutor(_CONCURRENCY, "capo-sampling")
        try:
            calls = {pool.submit(self._one, each, greedy): i for i, each in enumerate(requests)}
            for call in as_completed(calls):
                yield calls[call], call.result()
        finally:
            pool.shutdown(cancel_futures=True)

    def _one(self, request: SampleRequest, greedy: bool) -> SampledRollout:
        settings = self._settings
        body = {
            "model": self._model,
            "prompt": request.prompt_ids,
            "max_tokens": settings.max_tokens,
            "temperature": 0.0 if greedy else settings.temperature,
            "top_p": 1.0 if greedy else settings.top_p,
            "seed": stream_seed(self._seed, request.key) % (1 << 31),
            "return_token_ids": True,
        }
        choice = self._post(f"{self._url}/completions", body)["choices"][0]
        ids = choice.get("token_ids")
        if ids is None:
            raise SamplingError(
                f"{self._url} returns no token_ids; sampling needs a server that does "
                "(vLLM 0.10.2 or later), or sampling.engine = 'transformers'"
            )
        end, finished = self._tokenizer.eos_token_id, choice["finish_reason"] == "stop"
        if finished and (not ids or ids[-1] != end):
            ids = [*ids, end]
        text = self._tokenizer.decode(ids, skip_special_tokens=True)
        return SampledRollout(request, ids, text, finished)

    def update(self, save: Callable[[Path], None]) -> None:
        """Write the weights and have vLLM read them again (it must run with
        VLLM_SERVER_DEV_MODE=1 and see the same file system)."""
        if self._settings.weight_sync == "none":
            return
        shutil.rmtree(self._weights, ignore_errors=True)
        save(self._weights)
        root = self._url.removesuffix("/v1")
        path = {"weights_path": str(self._weights.resolve())}
        self._post(f"{root}/collective_rpc", {"method": "reload_weights", "kwargs": path})
        self._post(f"{root}/reset_prefix_cache", None)

    def _only_model(self) -> str:
        return str(self._call("GET", f"{self._url}/models")["data"][0]["id"])

    def _post(self, url: str, body: Any) -> Any:
        return self._call("POST", url, json=body)

    def _call(self, method: str, url: str, **content: Any) -> Any:
        try:
            response = self._http.request(method, url, **content)
        except httpx.TransportError as error:
            raise SamplingError(f"sampling server {url} cannot be reached: {error}") from error
        if response.status_code != 200:
            hint = "; start vLLM with VLLM_SERVER_DEV_MODE=1" if response.status_code == 404 else ""
            raise SamplingError(
                f"{url} answered {response.status_code}: {response.text[:300]}{hint}"
            )
        return response.json() if response.content else None
