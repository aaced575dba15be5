"""Sampling rollouts: by transformers in this process, or by an OpenAI-compatible server.

Every rollout has a random stream of its own, which depends on the seed, the step, the question and
its number alone. So neither the batch that it is sampled in, nor the number of processes, nor a
resumed run changes what is sampled (but for rounding of the logits).
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import httpx
import torch
from torch import Tensor
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedTokenizerBase,
    StoppingCriteria,
    StoppingCriteriaList,
)

from capo_trainer import recipe
from capo_trainer.data import Prompt

_SERVER_SECONDS = 600.0
_SERVER_CALLS = 64


class SamplingError(RuntimeError):
    """The sampling server cannot be used; the message says what to change."""


@dataclass(frozen=True, slots=True)
class Asked:
    """One rollout to sample. `key` decides its random stream."""

    prompt: Prompt
    prompt_ids: list[int]
    key: str


@dataclass(frozen=True, slots=True)
class Rollout:
    """One sampled answer. `ids` are the sampled tokens, the end token included where `finished`."""

    asked: Asked
    ids: list[int]
    text: str
    finished: bool


Finished = Callable[[int, Rollout], None]


class Sampler(Protocol):
    """Samples rollouts; calls back with the position of each as soon as it is finished."""

    def sample(
        self, model: Any, asked: Sequence[Asked], finished: Finished | None = None,
        greedy: bool = False,
    ) -> list[Rollout]: ...  # fmt: skip

    def update(self, save: Callable[[Path], None]) -> None:
        """New weights: `save` writes them to a folder."""


class LocalSampler:
    """`generate` of transformers, on the policy itself."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, settings: recipe.Sampling, seed: int
    ) -> None:
        self._tokenizer = tokenizer
        self._settings = settings
        self._seed = seed

    def update(self, save: Callable[[Path], None]) -> None:
        """Nothing to do: the policy itself samples."""

    def sample(
        self, model: Any, asked: Sequence[Asked], finished: Finished | None = None,
        greedy: bool = False,
    ) -> list[Rollout]:  # fmt: skip
        settings, done = self._settings, dict[int, Rollout]()
        for start in range(0, len(asked), settings.batch):
            rows = asked[start : start + settings.batch]

            def end(row: int, ids: list[int], complete: bool, start: int = start) -> None:
                rollout = self._rollout(asked[start + row], ids, complete)
                done[start + row] = rollout
                if finished is not None:
                    finished(start + row, rollout)

            inputs = self._tokenizer.pad(
                {"input_ids": [row.prompt_ids for row in rows]}, padding_side="left",
                return_tensors="pt",
            ).to(model.device)  # fmt: skip
            width = inputs["input_ids"].shape[1]
            watch = _Watch(width, self._tokenizer.eos_token_id, settings.max_tokens, end)
            processors = LogitsProcessorList()
            if not greedy:
                uniforms = torch.stack([self._uniforms(row.key) for row in rows])
                choose = _Choose(uniforms, width, settings.temperature, settings.top_p)
                processors.append(choose)
            with torch.no_grad():
                out = model.generate(
                    **inputs, max_new_tokens=settings.max_tokens, do_sample=False, num_beams=1,
                    temperature=None, top_p=None, top_k=None, use_cache=True,
                    logits_processor=processors, stopping_criteria=StoppingCriteriaList([watch]),
                    pad_token_id=self._tokenizer.pad_token_id,
                    eos_token_id=self._tokenizer.eos_token_id,
                )  # fmt: skip
            watch.rest(out)
        return [done[position] for position in range(len(asked))]

    def _uniforms(self, key: str) -> Tensor:
        generator = torch.Generator().manual_seed(stream_seed(self._seed, key))
        return torch.rand(self._settings.max_tokens, generator=generator, dtype=torch.float64)

    def _rollout(self, asked: Asked, ids: list[int], finished: bool) -> Rollout:
        return Rollout(asked, ids, self._tokenizer.decode(ids, skip_special_tokens=True), finished)


class _Choose(LogitsProcessor):  # type: ignore[misc]  # transformers has no types here
    """Temperature and top-p, then one token by inversion: greedy decoding then takes that one."""

    def __init__(self, uniforms: Tensor, width: int, temperature: float, top_p: float) -> None:
        self._uniforms = uniforms
        self._width = width
        self._temperature = temperature
        self._top_p = top_p

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        draws = self._uniforms[:, input_ids.shape[1] - self._width].to(scores.device)
        probabilities = (scores.double() / self._temperature).softmax(-1)
        order = None
        if self._top_p < 1:
            probabilities, order = probabilities.sort(descending=True, stable=True)
        cumulated = probabilities.cumsum(-1)
        # Kept are the fewest tokens that together reach top_p.
        kept = (cumulated - probabilities < self._top_p).sum(-1, keepdim=True)
        mass = cumulated.gather(-1, kept - 1)
        place = (cumulated <= draws[:, None] * mass).sum(-1, keepdim=True).minimum(kept - 1)
        chosen = place if order is None else order.gather(-1, place)
        return torch.full_like(scores, -torch.inf).scatter(-1, chosen, 0.0)


class _Watch(StoppingCriteria):  # type: ignore[misc]  # transformers has no types here
    """Stops nothing; tells of each row that has just ended."""

    def __init__(
        self, width: int, end: int, most: int, tell: Callable[[int, list[int], bool], None]
    ) -> None:
        self._width = width
        self._end = end
        self._most = most
        self._tell = tell
        self._told: set[int] = set()

    def __call__(self, input_ids: Tensor, scores: Tensor, **_: Any) -> Tensor:
        if input_ids.shape[1] > self._width:
            for row in (input_ids[:, -1] == self._end).nonzero()[:, 0].tolist():
                if row not in self._told:
                    self._told.add(row)
                    self._tell(row, input_ids[row, self._width :].tolist(), True)
        return torch.zeros(input_ids.shape[0], dtype=torch.bool, device=input_ids.device)

    def rest(self, output: Tensor) -> None:
        """Tell of rows that never ended."""
        for row in range(output.shape[0]):
            if row not in self._told:
                ids = output[row, self._width :].tolist()
                ended = self._end in ids
                self._tell(row, ids[: ids.index(self._end) + 1] if ended else ids, ended)


class ServerSampler:
    """An OpenAI-compatible server that takes token ids and returns them (vLLM does)."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, settings: recipe.Sampling, seed: int,
        weights: Path,
    ) -> None:  # fmt: skip
        self._tokenizer = tokenizer
        self._settings = settings
        self._seed = seed
        self._weights = weights
        self._http = httpx.Client(timeout=_SERVER_SECONDS)
        self._url = (settings.url or "").rstrip("/")
        self._model = settings.served_model or self._only_model()

    def sample(
        self, model: Any, asked: Sequence[Asked], finished: Finished | None = None,
        greedy: bool = False,
    ) -> list[Rollout]:  # fmt: skip
        done: dict[int, Rollout] = {}
        with ThreadPoolExecutor(_SERVER_CALLS) as pool:
            calls = {pool.submit(self._one, each, greedy): i for i, each in enumerate(asked)}
            for call in as_completed(calls):
                done[calls[call]] = call.result()
                if finished is not None:
                    finished(calls[call], call.result())
        return [done[position] for position in range(len(asked))]

    def _one(self, asked: Asked, greedy: bool) -> Rollout:
        settings = self._settings
        body = {
            "model": self._model, "prompt": asked.prompt_ids, "max_tokens": settings.max_tokens,
            "temperature": 0.0 if greedy else settings.temperature,
            "top_p": 1.0 if greedy else settings.top_p,
            "seed": stream_seed(self._seed, asked.key) % (1 << 31), "return_token_ids": True,
        }  # fmt: skip
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
        return Rollout(asked, ids, text, finished)

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
        listed = self._http.get(f"{self._url}/models").json()["data"]
        return str(listed[0]["id"])

    def _post(self, url: str, body: Any) -> Any:
        try:
            response = self._http.post(url, json=body)
        except httpx.TransportError as error:
            raise SamplingError(f"sampling server {url} cannot be reached: {error}") from error
        if response.status_code != 200:
            hint = "; start vLLM with VLLM_SERVER_DEV_MODE=1" if response.status_code == 404 else ""
            raise SamplingError(
                f"{url} answered {response.status_code}: {response.text[:300]}{hint}"
            )
        return response.json() if response.content else None


def make_sampler(
    tokenizer: PreTrainedTokenizerBase, settings: recipe.Sampling, seed: int, output: Path
) -> Sampler:
    """The sampler that the recipe names."""
    if settings.engine == "openai":
        return ServerSampler(tokenizer, settings, seed, output / "sampling_weights")
    return LocalSampler(tokenizer, settings, seed)


def stream_seed(seed: int, key: str) -> int:
    """A 63-bit seed for one rollout's random stream."""
    return int.from_bytes(hashlib.sha256(f"{seed} {key}".encode()).digest()[:8], "big") >> 1


def encode_prompt(
    tokenizer: PreTrainedTokenizerBase, question: str, policy: recipe.Policy
) -> list[int]:
    """The ids after which the policy answers: its chat template, or the plain text without one."""
    text = question + policy.suffix
    if tokenizer.chat_template:
        turns = [{"role": "system", "content": policy.system}] if policy.system else []
        text = tokenizer.apply_chat_template(
            [*turns, {"role": "user", "content": text}], tokenize=False, add_generation_prompt=True
        )
        return list(tokenizer.encode(text, add_special_tokens=False))
    return list(
        tokenizer.encode(f"{policy.system}\n\n{text}\n\n" if policy.system else f"{text}\n\n")
    )


def groups_of(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    """Consecutive groups."""
    for start in range(0, len(items), size):
        yield items[start : start + size]
