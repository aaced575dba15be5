"""A policy for verl's agent loop: SmolLM2 by transformers, where verl would have vLLM or SGLang."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import torch
from kit_adapters import MODEL
from verl.workers.rollout.llm_server import LLMServerClient
from verl.workers.rollout.replica import TokenOutput

_models: dict[str, Any] = {}
_turn = threading.Lock()


def policy() -> Any:
    if "policy" not in _models:
        from transformers import AutoModelForCausalLM

        _models["policy"] = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32).eval()
    return _models["policy"]


class Client(LLMServerClient):
    """Samples in the worker's own process."""

    async def generate(
        self, request_id: str, *, prompt_ids: Any, sampling_params: Any, **_: Any
    ) -> TokenOutput:
        def sample() -> list[int]:
            ids = torch.tensor([list(prompt_ids)])
            with _turn, torch.no_grad():
                out = policy().generate(
                    ids, attention_mask=torch.ones_like(ids), max_new_tokens=40, do_sample=True
                )
            return list(map(int, out[0, ids.shape[1] :]))

        return TokenOutput(token_ids=await asyncio.to_thread(sample))
