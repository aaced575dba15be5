"""Fixes requests with a seed in vLLM's CPU worker, which imports this module.

While a prompt is read in chunks, vLLM samples a token after each chunk and discards it, and then
rewinds the request's random generator by its offset. Generators on a CPU have no offset: the first
seeded request whose prompt is read in chunks ends the engine ("CPU Generator does not use offset",
vLLM 0.32). The engine argument `worker_extension_cls` is vLLM's way to load code into its workers.
"""

from __future__ import annotations

from functools import wraps
from typing import Any

import numpy as np
import vllm
from vllm.v1.worker.cpu_model_runner import CPUModelRunner

_METHOD = "_bookkeeping_sync"
# Code that the replaced method must contain for the replacement to be correct: it rewinds the
# generators of requests whose token is discarded.
_USES = {"discard_request_mask", "generators", "set_offset"}


class SeedsOnCpu:
    """The class that vLLM requires; only the import of this module matters."""


def check_patched(runner: type) -> None:
    """Check that vLLM still has the private method that this module wraps.

    Raises:
        RuntimeError: it is gone, or no longer rewinds generators.
    """
    code = getattr(getattr(runner, _METHOD, None), "__code__", None)
    if code is None or not set(code.co_names) >= _USES:
        raise RuntimeError(
            f"vLLM {vllm.__version__} no longer rewinds random generators in "
            f"{runner.__name__}.{_METHOD}, which {__name__} replaces on CPUs: install the vLLM "
            "version that capo-credit pins, or report this"
        )


def _reseeding(method: Any) -> Any:
    """`_bookkeeping_sync`, with generators rewound by seeding them again."""

    @wraps(method)
    def bookkeeping(self: Any, *args: Any, **kwargs: Any) -> Any:
        batch = self.input_batch
        discarded = np.nonzero(self.discard_request_mask.np[: batch.num_reqs])[0]
        rewound = {}
        for index in map(int, discarded):
            generator = batch.generators.pop(index, None)
            if generator is None:
                continue
            rewound[index] = generator
            # A preempted request, whose prompt is read again, has been sampled from before.
            if not self.requests[batch.req_ids[index]].output_token_ids:
                generator.manual_seed(generator.initial_seed())
        try:
            return method(self, *args, **kwargs)
        finally:
            batch.generators.update(rewound)

    return bookkeeping


check_patched(CPUModelRunner)
CPUModelRunner._bookkeeping_sync = _reseeding(CPUModelRunner._bookkeeping_sync)
