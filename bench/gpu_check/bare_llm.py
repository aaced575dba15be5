"""vLLM's `LLM.generate`, with vLLM's own defaults, on the prompts that the service would send.

A process of its own, started by processes.py. Reads one JSON object a line on standard input
(`rollouts`, `voting`), answers each with one line (`seconds`, `tokens`, `rollouts`). Steps,
prompts and token ids are made before the clock starts.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from typing import Any

import capo_wire as wire
from capo_service.engine.base import JudgePrompt, TokenPrompt
from capo_service.engine.local_models import local_model
from capo_service.engine.prompt_encoder import PromptEncoder
from capo_service.engine.thinking import structural_tag
from capo_service.engine.vllm_config import CPU_WORKER
from capo_service.pipeline.judge_profile import judge_profile
from capo_service.pipeline.judge_prompt import JudgePrompter
from capo_service.pipeline.prepare import CritiquePolicy, Preparer
from capo_service.settings import Settings


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--engine-args", type=json.loads, default=[])
    args = parser.parse_args()
    # vLLM writes to standard output too; the answers get a channel of their own.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    from vllm import LLM
    from vllm.platforms import current_platform

    path, _ = local_model(args.model)  # without the service's arguments for it
    arguments = dict(map(_argument, args.engine_args))
    if current_platform.is_cpu():  # where vLLM's own worker ends at a seed and a chunked prompt
        arguments["worker_extension_cls"] = CPU_WORKER
    llm = LLM(path, **arguments)
    config = llm.llm_engine.vllm_config
    ready = {
        "max_num_seqs": config.scheduler_config.max_num_seqs,
        "max_num_batched_tokens": config.scheduler_config.max_num_batched_tokens,
        "block_size": config.cache_config.block_size,
        "kv_cache_tokens": config.cache_config.kv_cache_size_tokens,
    }
    preparer, encoder = _preparer(path, args.model, config.model_config.max_model_len)
    print(json.dumps(ready), file=answers, flush=True)
    for line in sys.stdin:
        try:
            answer = _generate(llm, preparer, encoder, json.loads(line))
        except Exception as error:  # told to whoever asked; the next task may work
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers, flush=True)


def _argument(given: str) -> tuple[str, Any]:
    """As `capo serve --engine-arg` reads it."""
    name, _, value = given.partition("=")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def _preparer(path: str, model: str, context: int) -> tuple[Preparer, PromptEncoder]:
    settings = Settings(model=model, windows=False)
    profile = judge_profile(settings)
    encoder = PromptEncoder(path, {})

    def encode(prompt: JudgePrompt) -> TokenPrompt:
        return encoder.encode(prompt)

    prompter = JudgePrompter(
        encode, context, profile, "structural_tag", b"gpu-check", prefill=settings.prefill
    )
    return Preparer(prompter, {}, CritiquePolicy.of(settings, profile)), encoder


def _generate(
    llm: Any, preparer: Preparer, encoder: PromptEncoder, task: dict[str, Any]
) -> dict[str, Any]:
    from vllm.inputs import tokens_input

    options = wire.CreditOptions.model_validate({"voting": task["voting"]})
    prompts, sampling = [], []
    for rollout in task["rollouts"]:
        prepared = preparer.prepare(wire.Rollout.model_validate(rollout), options)
        asked = prepared.task
        assert asked is not None and isinstance(asked.prompt, TokenPrompt)
        for position in range(options.voting.critiques):
            prompts.append(tokens_input(asked.prompt.ids))
            one = asked.sampling.of_critique(position)
            sampling.append(_sampled(one, asked.prompt, encoder))
    began = time.perf_counter()
    outputs = llm.generate(prompts, sampling, use_tqdm=False)
    seconds = time.perf_counter() - began
    tokens = sum(len(output.outputs[0].token_ids) for output in outputs)
    read = sum(len(prompt["prompt_token_ids"]) for prompt in prompts)
    return {"seconds": seconds, "tokens": tokens, "prompt_tokens": read}


def _sampled(one: Any, prompt: TokenPrompt, encoder: PromptEncoder) -> Any:
    from vllm import SamplingParams
    from vllm.sampling_params import StructuredOutputsParams

    budget = one.thinking_tokens
    constraint = None
    if one.constraint is not None:
        tag = structural_tag(encoder.thought_end if budget else None, budget, one.constraint)
        constraint = StructuredOutputsParams(structural_tag=tag)
    return SamplingParams(
        temperature=one.temperature,
        top_p=one.top_p,
        max_tokens=budget + prompt.closing_tokens + one.max_tokens,
        seed=one.seed,
        structured_outputs=constraint,
    )


if __name__ == "__main__":
    main()
