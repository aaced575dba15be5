"""Greedy and sampled verdicts of one judge on vLLM. Run by bench/votes_group.py."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from group_judge import SIZE

SAMPLED = 4  # critiques of each prompt, in addition to the greedy one
LONGEST = 24  # tokens of a verdict
_VERDICT = """verdict ::= "{\\"incorrect_steps\\": [" list "]}"
list ::= "" | number (", " number)*
number ::= [0-9] | "1" [0-9]
"""


def main(path: str, given: str, got: str) -> None:
    """Judge the prompts in a file.

    Args:
        path: the judge's folder.
        given: a JSON file: form -> prompts as token ids.
        got: the file that is written: "FORM@K" -> texts, tokens and seconds.
    """
    from vllm import LLM, SamplingParams
    from vllm.inputs import tokens_input
    from vllm.platforms import current_platform
    from vllm.sampling_params import StructuredOutputsParams

    from capo_service.engine.local_models import local_model
    from capo_service.engine.vllm import CPU_WORKER

    _, known = local_model("testbed")
    if current_platform.is_cpu():
        known["worker_extension_cls"] = CPU_WORKER
    llm = LLM(model=path, enable_prefix_caching=True, **known)
    found: dict[str, Any] = {}
    for form, prompts in json.loads(Path(given).read_text()).items():
        count = SIZE if form == "group" else 1
        grammar = f"root ::= {' '.join(['verdict'] * count)}\n{_VERDICT}"
        for k in (1, SAMPLED):
            llm.reset_prefix_cache()
            params = SamplingParams(
                n=k,
                temperature=0.0 if k == 1 else 0.7,
                top_p=1.0 if k == 1 else 0.9,
                seed=1,
                max_tokens=LONGEST * count,
                structured_outputs=StructuredOutputsParams(grammar=grammar),
            )
            inputs = [tokens_input(each) for each in prompts]
            started = time.perf_counter()
            outputs = llm.generate(inputs, params, use_tqdm=False)
            seconds = time.perf_counter() - started
            found[f"{form}@{k}"] = {
                "seconds": seconds,
                # Of several critiques vLLM counts the cached tokens of one only.
                "uncached": uncached(outputs) if k == 1 else None,
                "tokens": sum(len(o.token_ids) for each in outputs for o in each.outputs),
                "texts": [[o.text for o in each.outputs] for each in outputs],
            }
    Path(got).write_text(json.dumps(found))


def uncached(outputs: Sequence[Any]) -> int:
    """Prompt tokens that were not in the prefix cache."""
    return sum(len(each.prompt_token_ids) - (each.num_cached_tokens or 0) for each in outputs)


if __name__ == "__main__":
    main(*sys.argv[1:])
