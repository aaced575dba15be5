"""Judges on this machine: the built-in names, and folders with weights, template and digest."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path
from typing import Any

from capo_service.engine import embedded, testbed
from capo_service.settings.fields import STORY_JUDGES

TEMPLATE = "judge.j2"

_SAMPLES, _SAMPLE_BYTES = 64, 4096  # of a file's content

# Sized for a laptop: 1 GiB of KV cache holds 45,000 tokens of this model, and nothing is compiled.
_EMBEDDED_ARGUMENTS = {
    "dtype": "bfloat16",
    "kv_cache_memory_bytes": 1 << 30,
    "block_size": 32,
    "max_num_seqs": 64,
    "max_num_batched_tokens": 2048,  # a step of vLLM's default, 4,096, takes seconds on two cores
    "enforce_eager": True,
}


def local_model(model: str) -> tuple[str, dict[str, Any]]:
    """A judge's folder or hub name, and the engine arguments of a built-in name.

    Raises:
        ValueError: the name is built in and the judge is not on this machine.
    """
    if model == embedded.NAME:
        return str(embedded.folder()), dict(_EMBEDDED_ARGUMENTS)
    if model in STORY_JUDGES:
        return str(testbed.folder(model)), dict(testbed.ARGUMENTS)
    return model, {}


def own_template(model: str) -> Path | None:
    """The prompt template that a judge was trained on, if its folder holds one (`judge.j2`).

    Raises:
        ValueError: the name is built in and the judge is not on this machine.
    """
    if model == embedded.NAME:
        return None
    path = Path(local_model(model)[0]) / TEMPLATE
    return path if path.is_file() else None


@cache  # the files that were there when the judge was loaded
def weights_digest(model: str) -> str | None:
    """Digest of the files in a judge's folder, by samples of each; None if it is no folder.

    A judge that is trained further in the same folder keeps its name and changes its digest.
    """
    try:
        folder = Path(local_model(model)[0])
        files = sorted(path for path in folder.iterdir() if path.is_file())
    except (OSError, ValueError):
        return None
    digest = hashlib.sha256()
    for path in files:
        size = path.stat().st_size
        digest.update(f"{path.name} {size} ".encode())
        with path.open("rb") as file:
            for sample in range(_SAMPLES):
                file.seek(sample * max(size - _SAMPLE_BYTES, 0) // (_SAMPLES - 1))
                digest.update(file.read(_SAMPLE_BYTES))
    return digest.hexdigest()
