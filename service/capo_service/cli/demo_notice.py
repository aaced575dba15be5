"""What `capo serve` without a model says: that it serves the demo judge, louder where a GPU is."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from capo_service.settings import Settings

_FOR_TRAINING = "capo serve Qwen/Qwen2.5-7B-Instruct"


def notice(settings: Settings, gpu: bool) -> str | None:
    """What to say of the judge; None if one was named.

    Args:
        settings: of the service.
        gpu: whether this machine has a GPU.
    """
    if settings.engine != "vllm" or "model" in settings.model_fields_set:
        return None
    if gpu:
        return (
            "this machine has a GPU, but no model is given: the service runs ONLY THE DEMO JUDGE, "
            "which knows short arithmetic stories and nothing else. A judge for training: "
            f"{_FOR_TRAINING}"
        )
    return (
        "no model is given: serving the demo judge, which knows short arithmetic stories and "
        f"nothing else. A judge for training, on a GPU: {_FOR_TRAINING}"
    )


def gpu_is_here(root: Path = Path("/")) -> bool:
    """Whether a GPU is visible, without importing torch; one hidden by CUDA_VISIBLE_DEVICES is not.

    Args:
        root: of the file system.
    """
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return False
    devices = [*root.glob("dev/nvidia[0-9]*"), *root.glob("dev/kfd")]
    drivers = root.glob("proc/driver/nvidia/gpus/*")
    return any(devices) or any(drivers) or shutil.which("nvidia-smi") is not None
