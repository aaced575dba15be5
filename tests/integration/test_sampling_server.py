"""Sampling by a real vLLM server, and new weights reaching it while it runs."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import kit_trainer
from capo_client.cli.ports import free_port
from capo_trainer.policy import encode_prompt, load_policy
from capo_trainer.sampling import LocalSampler, ServerSampler, sample_all
from capo_trainer.sections import Policy, Sampling
from capo_trainer.types import Prompt, SampleRequest
from kit_engine import Running, running


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # vLLM's CPU build keeps the old output layer of a model with tied embeddings when it reloads.
    return kit_trainer.make_policy(tmp_path_factory.mktemp("policy"), tied=False)


@pytest.fixture(scope="module")
def server(policy: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    port = free_port()
    command = [
        sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(policy),
        "--served-model-name", "policy", "--host", "127.0.0.1", "--port", str(port),
        "--dtype", "float32", "--kv-cache-memory-bytes", str(64 << 20), "--enforce-eager",
        "--block-size", "32", "--max-model-len", "128",
    ]  # fmt: skip
    environment = {
        "VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_NO_USAGE_STATS": "1", "VLLM_SERVER_DEV_MODE": "1",
    }  # fmt: skip
    log = tmp_path_factory.mktemp("logs") / "vllm.log"
    with running(command, port, "/health", log, "policy", **environment) as started:
        yield started


def test_a_server_samples_as_the_policy_does_and_follows_its_weights(
    server: Running, policy: Path, tmp_path: Path
) -> None:
    model, tokenizer = load_policy(Policy(model=str(policy)))
    settings = Sampling(
        engine="openai", url=f"{server.url}/v1", weight_sync="vllm_reload", max_tokens=12,
        temperature=1.0, top_p=1.0,
    )  # fmt: skip
    sampler = ServerSampler(tokenizer, settings, 0, tmp_path / "weights")
    local = LocalSampler(tokenizer, settings, 0)
    requests = [
        SampleRequest(
            Prompt(i, text, "1"), encode_prompt(tokenizer, text, Policy(model="")), f"key {i}"
        )
        for i, text in enumerate(["First we add", "Then 12 and", "crêpes", "x = (a"] * 2)
    ]

    def compare() -> list[list[int]]:
        theirs = [r.ids for r in sample_all(sampler, None, requests, greedy=True)]
        assert theirs == [r.ids for r in sample_all(local, model, requests, greedy=True)]
        return theirs

    before = compare()
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.2 * torch.randn_like(parameter)

    def save(folder: Path) -> None:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)

    sampler.update(save)
    assert compare() != before
    sampled = list(sampler.sample(None, requests))
    assert sorted(position for position, _ in sampled) == list(range(8))
    assert all(0 < len(rollout.ids) <= 13 for _, rollout in sampled)
