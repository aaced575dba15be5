"""The engine alone: vLLM's `LLM.generate` on the prompts that the service would send.

Run by bench/service.py as a process of its own. Reads one JSON object a line on standard input
(`rollouts`, `voting`), answers each with one line on standard output (`seconds`, `tokens`). What
comes before the engine (steps, prompts, token ids) is done before the clock starts.
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
from capo_service.engine.local_models import local_model, own_template
from capo_service.engine.prompt_encoder import PromptEncoder
from capo_service.engine.thinking import structural_tag
from capo_service.engine.vllm import CPU_WORKER
from capo_service.judges.loading import load_profile
from capo_service.pipeline.judge_prompt import JudgePrompter
from capo_service.pipeline.prepare import CritiquePolicy, Preparer


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--style", default="brief")
    parser.add_argument("--nonce-secret", default="bench")
    parser.add_argument("--engine-args", type=json.loads, default={})
    args = parser.parse_args()
    # vLLM writes to standard output too; the answers get a channel of their own.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
    from vllm import LLM
    from vllm.inputs import tokens_input
    from vllm.platforms import current_platform

    path, known = local_model(args.model)
    if current_platform.is_cpu():
        known["worker_extension_cls"] = CPU_WORKER
    llm = LLM(model=path, enable_prefix_caching=True, **known | args.engine_args)
    prepare = preparer(path, args.model, args.style, args.nonce_secret)
    print(json.dumps({"ready": True}), file=answers, flush=True)
    for line in sys.stdin:
        task = json.loads(line)
        options = wire.CreditOptions.model_validate({"voting": task["voting"]})
        prompts, sampling = [], []
        for rollout in task["rollouts"]:
            prepared = prepare.prepare(wire.Rollout.model_validate(rollout), options)
            asked = prepared.task
            assert asked is not None and isinstance(asked.prompt, TokenPrompt)
            for position in range(options.voting.critiques):
                prompts.append(tokens_input(asked.prompt.ids))
                sampling.append(sampled(asked.sampling.of_critique(position)))
        started = time.perf_counter()
        outputs = llm.generate(prompts, sampling, use_tqdm=False)
        seconds = time.perf_counter() - started
        tokens = sum(len(output.outputs[0].token_ids) for output in outputs)
        print(json.dumps({"seconds": seconds, "tokens": tokens}), file=answers, flush=True)


def preparer(path: str, model: str, style: Any, secret: str) -> Preparer:
    encoder = PromptEncoder(path, {})

    def encode(prompt: JudgePrompt) -> TokenPrompt:
        return encoder.encode(prompt)

    profile = load_profile("default", own_template(model))
    prompter = JudgePrompter(encode, None, profile, "structural_tag", secret.encode(), prefill=True)
    return Preparer(prompter, {}, CritiquePolicy(style=style))


def sampled(one: Any) -> Any:
    from vllm import SamplingParams
    from vllm.sampling_params import StructuredOutputsParams

    return SamplingParams(
        temperature=one.temperature,
        top_p=one.top_p,
        max_tokens=one.max_tokens,
        seed=one.seed,
        structured_outputs=StructuredOutputsParams(
            structural_tag=structural_tag(None, 0, one.constraint)
        ),
    )


if __name__ == "__main__":
    main()
