"""The testbed's judges: tiny models that `capo testbed` trains on this machine.

They judge one kind of arithmetic story and nothing else. `testbed` has step F1 0.95; `testbed-f80`
and `testbed-f60` are deliberately weaker.
"""

from __future__ import annotations

from pathlib import Path

from capo_service.engine.embedded import cache

# A model of a million parameters on a CPU: small buffers, and no compilation.
ARGUMENTS = {
    "dtype": "float32",
    "kv_cache_memory_bytes": 256 << 20,
    "block_size": 32,
    "max_num_seqs": 256,
    "max_num_batched_tokens": 8192,
    "enforce_eager": True,
}


def folder(name: str) -> Path:
    """The judge's folder.

    Raises:
        ValueError: it has not been built.
    """
    path = cache() / "testbed" / name.replace("testbed", "judge", 1)
    if not (path / "config.json").exists():
        raise ValueError(
            f"the testbed's judge is not at {path}: build it with `capo testbed` (extra trainer; "
            "some minutes on two cores)"
        )
    return path
