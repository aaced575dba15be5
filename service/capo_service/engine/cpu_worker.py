"""What vLLM's worker on a CPU needs of us; vLLM imports it there (`worker_extension_cls`).

While a prompt is read in chunks, vLLM samples a token after each and throws it away, and winds the
request's random generator back by its offset. Generators on a CPU have none: the engine died at the
first request with a seed whose prompt was read in chunks (vLLM 0.32).
"""

from __future__ import annotations

from functools import wraps
from typing import Any

import numpy as np
from vllm.v1.worker.cpu_model_runner import CPUModelRunner


class SeedsOnCpu:
    """Nothing of its own: importing it is what counts."""


def _keep_generators_from(book: Any) -> Any:
    """`_bookkeeping_sync`, that winds generators back by seeding them anew."""

    @wraps(book)
    def keeping(self: Any, *args: Any, **kwargs: Any) -> Any:
        batch = self.input_batch
        thrown_away = np.nonzero(self.discard_request_mask.np[: batch.num_reqs])[0]
        held = {}
        for index in map(int, thrown_away):
            generator = batch.generators.pop(index, None)
            if generator is None:
                continue
            held[index] = generator
            # One that was interrupted and is read again has been sampled from before.
            if not self.requests[batch.req_ids[index]].output_token_ids:
                generator.manual_seed(generator.initial_seed())
        try:
            return book(self, *args, **kwargs)
        finally:
            batch.generators.update(held)

    return keeping


CPUModelRunner._bookkeeping_sync = _keep_generators_from(CPUModelRunner._bookkeeping_sync)
