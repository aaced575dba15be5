"""Keeps the work that vLLM's front end does for a critique small and independent of its steps.

vLLM's front end runs in this process's event loop. For every request it parses the constraint,
copies the parameters deeply, compares all token ids of the prompt with the vocabulary, and, for
every token that is sampled, reads environment variables. Here each constraint is parsed once for an
engine, and the rest is done once for all. `make bench-frontend` measures it.

Nothing here is needed for correctness: where another vLLM has no such method, it does the work.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence
from dataclasses import replace
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any

from capo_service.engine.base import CritiqueSampling, TokenPrompt
from capo_service.engine.thinking import ThoughtEnd, structural_tag

if TYPE_CHECKING:
    from vllm import SamplingParams
    from vllm.v1.engine.async_llm import AsyncLLM

log = logging.getLogger(__name__)

_MOST_KEPT = 1024  # parameters, of as many constraints; up to 20 KB each at 400 steps


class FrontEnd:
    """Makes the parameters of critiques for one engine.

    Args:
        llm: the engine.
        end: how the judge's thoughts are ended.
        largest_id: the largest token id that prompts can have.
    """

    def __init__(self, llm: AsyncLLM, end: ThoughtEnd, largest_id: int) -> None:
        self._end = end
        self._verified = lru_cache(maxsize=_MOST_KEPT)(self._make)
        _trust_token_ids(llm, largest_id)
        _cache_environment(True)

    def params(self, sampling: CritiqueSampling, prompt: TokenPrompt) -> SamplingParams:
        """The parameters of one critique; only the seed is its own."""
        seed = sampling.seed
        alike = sampling if seed is None else replace(sampling, seed=0)
        own = copy.copy(self._verified(alike, prompt.closing_tokens))
        own.seed = seed
        return own

    def close(self) -> None:
        """Read environment variables again, which the next engine's configuration may change."""
        _cache_environment(False)

    def _make(self, sampling: CritiqueSampling, closing_tokens: int) -> SamplingParams:
        from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams

        constraint, budget = None, sampling.thinking_tokens
        if sampling.constraint is not None:
            tag = structural_tag(self._end if budget else None, budget, sampling.constraint)
            constraint = StructuredOutputsParams(structural_tag=tag)
        return _verified_once()(
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            max_tokens=budget + closing_tokens + sampling.max_tokens,
            seed=sampling.seed,
            structured_outputs=constraint,
            logprobs=sampling.top_logprobs or None,
            detokenize=False,  # vLLM would decode the prompt too, in this process's event loop
            output_kind=RequestOutputKind.FINAL_ONLY,
        )


@cache
def _verified_once() -> type[SamplingParams]:
    """`SamplingParams` whose copies are verified once, and which are copied without their parts.

    Both are encoded for the engine exactly as `SamplingParams` are.
    """
    from vllm import SamplingParams

    class VerifiedOnce(SamplingParams):  # type: ignore[misc]  # vLLM has no types
        def clone(self) -> SamplingParams:
            # vLLM sets fields of the copy. Of the objects in them it changes only the set of end
            # tokens, to which it adds the same ones each time.
            return copy.copy(self)

        def verify(self, *args: Any, **kwargs: Any) -> None:
            # The copies share this object, which also remembers the backend that vLLM chose.
            constraint = self.structured_outputs
            if constraint is None or not getattr(constraint, "capo_verified", False):
                super().verify(*args, **kwargs)
                if constraint is not None:
                    constraint.capo_verified = True

    return VerifiedOnce


def _trust_token_ids(llm: AsyncLLM, largest_id: int) -> None:
    """Skip vLLM's comparison of a prompt's ids with the vocabulary, if no id can fail it.

    Prompts are encoded by this service, so the largest id decides.
    """
    renderer = getattr(llm, "renderer", None)
    check = getattr(renderer, "validate_token_ids", None)
    if check is None:
        return
    try:
        check([0, largest_id])
    except Exception:
        log.warning(
            "the judge's tokenizer has token ids up to %d, more than its model: vLLM checks every "
            "prompt",
            largest_id,
        )
        return

    def accept(token_ids: Sequence[int], **kwargs: Any) -> None:
        return None

    renderer.validate_token_ids = accept  # type: ignore[union-attr]


def _cache_environment(enabled: bool) -> None:
    """vLLM's own cache, which it uses in the engine's process once that has started."""
    from vllm import envs

    switch = getattr(envs, "enable_envs_cache" if enabled else "disable_envs_cache", None)
    if switch is not None:
        switch()
