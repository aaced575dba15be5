"""The demo's judge, and the testbed's: tiny models for one kind of arithmetic story.

`demo` comes with the package. `capo testbed` trains the others on this machine: `testbed` by the
same recipe as `demo`, the deliberately weaker `testbed-f80` and `testbed-f60`, and, on request,
`testbed-thinking`, which computes each line itself before its verdict.
"""

from __future__ import annotations

from pathlib import Path

from capo_service.engine.embedded import cache
from capo_service.settings.fields import DEMO_JUDGE, THINKING_JUDGE

# 1.4 M parameters in bfloat16; `python tools/demo_judge.py` writes it.
_DEMO_FOLDER = Path(__file__).with_name("demo_judge")

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
        ValueError: it is one of the testbed's, and has not been built.
    """
    if name == DEMO_JUDGE:
        return _DEMO_FOLDER
    path = cache() / "testbed" / name.replace("testbed", "judge", 1)
    if not (path / "config.json").exists():
        command = "capo testbed --thinking" if name == THINKING_JUDGE else "capo testbed"
        raise ValueError(
            f"the testbed's judge is not at {path}: build it with `{command}` (extra trainer; "
            "some minutes on two cores), or use the one that comes with the package: `capo serve "
            f"{DEMO_JUDGE}`"
        )
    return path
