"""The engine alone: vLLM's `LLM(model=...).generate` on the prompts that the service would send.

Run by bench/engines.py as a process of its own. Reads one JSON object a line on standard input
(`rollouts`, `voting`), answers each with one line on standard output (`seconds`, `tokens`). What
comes before the engine (steps, prompts, token ids) is done before the clock starts.

The engine has vLLM's own arguments, except on a CPU, where its default KV cache of 92% of the
memory does not start beside another engine. Without this project's worker vLLM on a CPU cannot
seed a request whose prompt is read in parts (cpu_worker.py), so critiques have no seeds there.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from typing import Any

from engines import NEEDED_ON_CPU

import capo_wire as wire
from capo_service.engine.base import JudgePrompt, TokenPrompt
from capo_service.engine.local_models import local_model, own_template
from capo_service.engine.prompt_encoder import PromptEncoder
from capo_service.engine.thinking import structural_tag
from capo_service.judges.loading import load_profile
from capo_service.pipeline.judge_prompt import JudgePrompter
from capo_service.pipeline.prepare import CritiquePolicy, Preparer


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--style", default="brief")
    parser.add_argument("--nonce-secret", default="bench")
    parser.add_argument("--arguments", type=json.loads, help="of LLM, beside the model")
    args = parser.parse_args()
    # vLLM writes to standard output too; the answers get a channel of their own.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    from vllm import LLM
    from vllm.platforms import current_platform

    arguments = args.arguments
    if arguments is None:
        arguments = NEEDED_ON_CPU if current_platform.is_cpu() else {}
    path = local_model(args.model)[0]
    llm = LLM(model=path, **arguments)
    ready = {"arguments": arguments, "limits": limits(llm), "seeds": not current_platform.is_cpu()}
    prepare = preparer(path, args.model, args.style, args.nonce_secret)
    print(json.dumps(ready), file=answers, flush=True)
    for line in sys.stdin:
        task = json.loads(line)
        prompts, sampling = requests(prepare, task, ready["seeds"])
        started = time.perf_counter()
        outputs = llm.generate(prompts, sampling, use_tqdm=False)
        seconds = time.perf_counter() - started
        tokens = sum(len(output.outputs[0].token_ids) for output in outputs)
        print(json.dumps({"seconds": seconds, "tokens": tokens}), file=answers, flush=True)


def limits(llm: Any) -> dict[str, int]:
    config = llm.llm_engine.vllm_config
    return {
        "max_num_seqs": config.scheduler_config.max_num_seqs,
        "max_num_batched_tokens": config.scheduler_config.max_num_batched_tokens,
        "block_size": config.cache_config.block_size,
    }


def requests(prepare: Preparer, task: dict[str, Any], seeds: bool) -> tuple[list[Any], list[Any]]:
    """Prompts and sampling parameters of all critiques of a task's rollouts."""
    from vllm.inputs import tokens_input

    options = wire.CreditOptions.model_validate({"voting": task["voting"]})
    prompts, sampling = [], []
    for rollout in task["rollouts"]:
        asked = prepare.prepare(wire.Rollout.model_validate(rollout), options).task
        assert asked is not None and isinstance(asked.prompt, TokenPrompt)
        for position in range(options.voting.critiques):
            prompts.append(tokens_input(asked.prompt.ids))
            sampling.append(sampled(asked.sampling.of_critique(position), seeds))
    return prompts, sampling


def preparer(path: str, model: str, style: Any, secret: str) -> Preparer:
    encoder = PromptEncoder(path, {})

    def encode(prompt: JudgePrompt) -> TokenPrompt:
        return encoder.encode(prompt)

    profile = load_profile("default", own_template(model))
    prompter = JudgePrompter(encode, None, profile, "structural_tag", secret.encode(), prefill=True)
    return Preparer(prompter, {}, CritiquePolicy(style=style))


def sampled(one: Any, seeds: bool) -> Any:
    from vllm import SamplingParams
    from vllm.sampling_params import StructuredOutputsParams

    return SamplingParams(
        temperature=one.temperature,
        top_p=one.top_p,
        max_tokens=one.max_tokens,
        seed=one.seed if seeds else None,
        structured_outputs=StructuredOutputsParams(
            structural_tag=structural_tag(None, 0, one.constraint)
        ),
    )


if __name__ == "__main__":
    main()
