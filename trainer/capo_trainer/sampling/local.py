"""Sampling by `generate` of transformers, on the policy itself."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import torch
from torch import Tensor
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    StoppingCriteria,
    StoppingCriteriaList,
)

from capo_trainer.sampling.base import FinishedRollouts, stream_seed
from capo_trainer.sections import Sampling
from capo_trainer.types import SampledRollout, SampleRequest


class _Decoding:
    """What the decoding thread and its consumer share.

    `finished` holds (position, sampled ids, whether they end in the end token), and None after the
    last.
    """

    def __init__(self) -> None:
        self.finished: SimpleQueue[tuple[int, list[int], bool] | None] = SimpleQueue()
        self.stopped = threading.Event()

    def close(self) -> None:
        """Have decoding end after the current token."""
        self.stopped.set()


class LocalSampler:
    """A `Sampler` that decodes in a thread of its own, so that the caller's work on finished
    rollouts does not delay the next token."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, settings: Sampling, seed: int) -> None:
        self._tokenizer = tokenizer
        self._settings = settings
        self._seed = seed

    def update(self, save: Callable[[Path], None]) -> None:
        """Nothing to do: the policy itself samples."""

    def sample(
        self,
        model: PreTrainedModel | None,
        requests: Sequence[SampleRequest],
        *,
        greedy: bool = False,
    ) -> FinishedRollouts:
        with ThreadPoolExecutor(1, "capo-sampling") as thread, closing(_Decoding()) as decoding:
            work = thread.submit(self._decode, model, requests, greedy, decoding)
            work.add_done_callback(lambda _: decoding.finished.put(None))
            while (item := decoding.finished.get()) is not None:
                position, ids, finished = item
                text = self._tokenizer.decode(ids, skip_special_tokens=True)
                yield position, SampledRollout(requests[position], ids, text, finished)
            work.result()

    def _decode(
        self,
        model: PreTrainedModel,
        requests: Sequence[SampleRequest],
        greedy: bool,
        decoding: _Decoding,
    ) -> None:
        """Decode all requests, batch by batch."""
        if model.device.type == "cuda":
            torch.cuda.set_device(model.device)  # each thread has a current device of its own
        settings, end = self._settings, self._tokenizer.eos_token_id
        for start in range(0, len(requests), settings.batch):
            rows = requests[start : start + settings.batch]
            prompts = {"input_ids": [row.prompt_ids for row in rows]}
            inputs = self._tokenizer.pad(prompts, padding_side="left", return_tensors="pt")
            width = inputs["input_ids"].shape[1]
            watch = _FinishedRows(decoding, start, width, end)
            processors = LogitsProcessorList()
            if not greedy:
                uniforms = torch.stack([self._uniforms(row.key) for row in rows])
                processors.append(
                    _ChooseToken(uniforms, width, settings.temperature, settings.top_p)
                )
            with torch.no_grad():
                output = model.generate(
                    **inputs.to(model.device),
                    max_new_tokens=settings.max_tokens,
                    # One token is left by the processor, and greedy decoding takes it.
                    do_sample=False,
                    num_beams=1,
                    temperature=None,
                    top_p=None,
                    top_k=None,
                    use_cache=True,
                    logits_processor=processors,
                    stopping_criteria=StoppingCriteriaList([watch]),
                    pad_token_id=self._tokenizer.pad_token_id,
                    eos_token_id=end,
                )
            if decoding.stopped.is_set():
                return
            watch.put_rest(output)

    def _uniforms(self, key: str) -> Tensor:
        generator = torch.Generator().manual_seed(stream_seed(self._seed, key))
        return torch.rand(self._settings.max_tokens, generator=generator, dtype=torch.float64)


class _ChooseToken(LogitsProcessor):  # type: ignore[misc]  # transformers has no types here
    """Temperature and top-p, then one token by inversion of the cumulated probabilities."""

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
        rank = (cumulated <= draws[:, None] * mass).sum(-1, keepdim=True).minimum(kept - 1)
        chosen = rank if order is None else order.gather(-1, rank)
        return torch.full_like(scores, -torch.inf).scatter(-1, chosen, 0.0)


class _FinishedRows(StoppingCriteria):  # type: ignore[misc]  # transformers has no types here
    """Puts each row that has just ended into the queue; stops only where decoding was closed."""

    def __init__(self, decoding: _Decoding, first: int, width: int, end: int) -> None:
        self._decoding = decoding
        self._first = first
        self._width = width
        self._end = end
        self._seen: set[int] = set()

    def __call__(self, input_ids: Tensor, scores: Tensor, **_: Any) -> Tensor:
        if input_ids.shape[1] > self._width:
            for row in (input_ids[:, -1] == self._end).nonzero()[:, 0].tolist():
                if row not in self._seen:
                    self._put(row, input_ids[row, self._width :].tolist(), True)
        stop = self._decoding.stopped.is_set()
        return torch.full((input_ids.shape[0],), stop, device=input_ids.device)

    def put_rest(self, output: Tensor) -> None:
        """Put the rows that have not ended."""
        for row in range(output.shape[0]):
            if row not in self._seen:
                ids = output[row, self._width :].tolist()
                ended = self._end in ids
                self._put(row, ids[: ids.index(self._end) + 1] if ended else ids, ended)

    def _put(self, row: int, ids: list[int], finished: bool) -> None:
        self._seen.add(row)
        self._decoding.finished.put((self._first + row, ids, finished))
