"""vLLM's own options of `capo serve`, parsed by the vLLM that is installed. No engine is started."""

from __future__ import annotations

import importlib.util
import json
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

pytestmark = [
    pytest.mark.slow,  # imports vLLM
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed"),
]
# One process parses all lines, because importing vLLM takes seconds.
PARSE = """
import json, shlex, sys
from capo_service.cli import vllm_options
def parsed(line):
    try:
        return vllm_options.parse(shlex.split(line))
    except ValueError as error:
        return str(error)
with open(sys.argv[1]) as file:
    lines = json.load(file)
print("\\n" + json.dumps({line: parsed(line) for line in lines}))
"""
ACCEPTED: dict[str, list[Any]] = {
    "--tensor-parallel-size 4": [None, {"tensor_parallel_size": 4}],
    "--tensor-parallel-size=4 MODEL": ["MODEL", {"tensor_parallel_size": 4}],
    "--tensor_parallel_size 4": [None, {"tensor_parallel_size": 4}],
    "-tp 4 -pp 2 -dp 2 -ep MODEL": [
        "MODEL",
        {
            "tensor_parallel_size": 4,
            "pipeline_parallel_size": 2,
            "data_parallel_size": 2,
            "enable_expert_parallel": True,
        },
    ],
    "--enforce-eager MODEL": ["MODEL", {"enforce_eager": True}],
    "--no-enable-prefix-caching": [None, {"enable_prefix_caching": False}],
    "--max-model-len 16k --gpu-memory-utilization 0.9": [
        None,
        {"max_model_len": 16000, "gpu_memory_utilization": 0.9},
    ],
    "--max-model-len -1": [None, {"max_model_len": -1}],
    "--quantization fp8 --dtype bfloat16": [None, {"quantization": "fp8", "dtype": "bfloat16"}],
    "--limit-mm-per-prompt '{\"image\": 0}'": [None, {"limit_mm_per_prompt": {"image": 0}}],
    '--speculative-config \'{"model": "x", "num_speculative_tokens": 3}\'': [
        None,
        {"speculative_config": {"model": "x", "num_speculative_tokens": 3}},
    ],
    "--compilation-config '{\"mode\": 3}'": [None, {"compilation_config": {"mode": 3}}],
    "--compilation-config.backend eager": [None, {"compilation_config": {"backend": "eager"}}],
    "--cudagraph-capture-sizes 1 2 4": [None, {"cudagraph_capture_sizes": [1, 2, 4]}],
}
REFUSED = {
    "--tensor-paralel-size 4": "(did you mean --tensor-parallel-size?)",
    "--modle x": "(did you mean --model?)",
    "--max-step 4": "(did you mean --max-steps?)",
    "--dtype x": "argument --dtype: invalid choice: 'x' (choose from 'auto', 'bfloat16'",
    "--max-model-len many": "argument --max-model-len: invalid",
    "--tensor-parallel-size": "argument --tensor-parallel-size/-tp: expected one argument",
    "--enforce-eager A B": "unexpected argument: B",
    "--attention-config '{\"backend\": 3}'": "argument --attention-config/-ac: ",
}


@pytest.fixture(scope="module")
def parsed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    lines = tmp_path_factory.mktemp("lines") / "lines.json"
    lines.write_text(json.dumps([*ACCEPTED, *REFUSED]))
    done = subprocess.run(
        [sys.executable, "-c", PARSE, str(lines)],
        capture_output=True,
        text=True,
        timeout=280,
        check=True,
    )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize("line", ACCEPTED)
def test_options_of_vllm_have_its_types_and_names(parsed: dict[str, Any], line: str) -> None:
    assert parsed[line] == ACCEPTED[line]


@pytest.mark.parametrize("line", REFUSED)
def test_errors_of_vllms_options_are_one_line(parsed: dict[str, Any], line: str) -> None:
    said = parsed[line]
    assert isinstance(said, str) and REFUSED[line] in said
    assert len(said) < 500 and "\n" not in said


def test_the_command_merges_them_with_all_other_sources(tmp_path: Path) -> None:
    config = tmp_path / "capo.toml"
    config.write_text("port = 9\n[engine_args]\nseed = 3\nmax_model_len = 5\nmax_num_seqs = 7\n")
    line = (
        f"serve --config {config} -tp 2 --max-num-seqs=12 Q/7B --engine-arg tensor_parallel_size=8 "
        "--port 1 --enforce-eager --print-config"
    )
    done = subprocess.run(
        [sys.executable, "-m", "capo_client", *shlex.split(line)],
        capture_output=True,
        text=True,
        timeout=280,
        check=True,
    )
    shown = tomllib.loads(done.stdout)
    assert shown["model"] == "Q/7B" and shown["port"] == 1
    assert shown["engine_args"] == {
        "seed": 3,
        "max_model_len": 5,
        "max_num_seqs": 12,
        "tensor_parallel_size": 8,
        "enforce_eager": True,
    }
