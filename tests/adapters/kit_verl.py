"""A policy for verl's agent loop: SmolLM2 by transformers, where verl would have vLLM or SGLang."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import torch
from kit_adapters import MODEL
from transformers import AutoTokenizer
from verl.experimental.agent_loop.agent_loop import (
    AgentLoopBase,
    AgentLoopMetrics,
    AgentLoopOutput,
)
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


CALL = '<tool_call>\n{"name": "calculate", "arguments": {"expression": "3 * 4 - 2"}}\n</tool_call>'
ANSWER = "So 10 are left.\n\n#### 10"
TOOL = '''
from verl.tools.function_tool import function_tool

@function_tool
def calculate(expression: str) -> str:
    """Calculate.

    Args:
        expression: what to calculate.
    """
    return "the tool says 10"
'''
LOOPS = "- {name: compacting, _target_: kit_verl.Compacting}\n"


class Scripted(LLMServerClient):
    """A policy that calls the tool, and answers once its context has what it needs."""

    async def generate(
        self, request_id: str, *, prompt_ids: Any, sampling_params: Any, **_: Any
    ) -> TokenOutput:
        tokenizer = AutoTokenizer.from_pretrained(MODEL)
        context = tokenizer.decode(prompt_ids)
        text = ANSWER if "the tool says" in context or "Summary" in context else CALL
        return TokenOutput(token_ids=[*tokenizer.encode(text), tokenizer.eos_token_id])


class Compacting(AgentLoopBase):
    """An agent loop that puts a summary into the place of its first turn: two outputs."""

    async def run(self, sampling_params: dict[str, Any], **kwargs: Any) -> list[AgentLoopOutput]:
        question = list(kwargs["raw_prompt"])
        summary = {"role": "user", "content": "Summary: I called it. Answer now."}
        outputs = []
        for messages in (question, [*question, summary]):
            prompt = await self.ct_build_initial_tokens(messages)
            sampled = await self.server_manager.generate(
                request_id="x", prompt_ids=prompt, sampling_params=sampling_params
            )
            outputs.append(
                AgentLoopOutput(
                    prompt_ids=prompt,
                    response_ids=sampled.token_ids,
                    response_mask=[1] * len(sampled.token_ids),
                    num_turns=2,
                    metrics=AgentLoopMetrics(),
                )
            )
        return outputs
