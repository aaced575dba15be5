"""Write service/capo_service/engine/demo_judge/: the judge `demo`, which comes with the package.

    .venv/bin/python tools/demo_judge.py            (about 20 minutes on one core)
    .venv/bin/python tools/demo_judge.py --check    (the same, and compares with what is there)

The testbed is built from scratch (seed 0, one thread, deterministic algorithms), its best judge is
rounded to bfloat16, and its files are written. The same versions of torch and transformers on the
same kind of processor give the same bytes; kernels for another instruction set round differently.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from capo_testbed.build import build
from capo_testbed.common import Sizes

OUT = Path(__file__).resolve().parent.parent / "service/capo_service/engine/demo_judge"
WEIGHTS, CONFIG = "model.safetensors", "config.json"
FILES = (
    CONFIG,
    "generation_config.json",
    "chat_template.jinja",
    "tokenizer.json",
    "tokenizer_config.json",
    "judge.j2",
)
SEED, THREADS = 0, 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare, and write nothing")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        testbed = Path(scratch) / "testbed"
        torch.set_num_threads(THREADS)
        build(testbed, Sizes(), SEED, print)
        made = Path(scratch) / "judge"
        pack(testbed / "judge", made)
        print(json.dumps(json.loads((testbed / "testbed.json").read_text())["judges"]))
        if options.check:
            sys.exit(differing(made))
        shutil.rmtree(OUT, ignore_errors=True)
        shutil.copytree(made, OUT)
    for path in sorted(OUT.iterdir()):
        print(hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_size, path.name)


def pack(judge: Path, target: Path) -> None:
    """The judge's files, with its weights in bfloat16."""
    target.mkdir()
    for name in FILES:
        shutil.copyfile(judge / name, target / name)
    config = json.loads((judge / CONFIG).read_text())
    (target / CONFIG).write_text(json.dumps({**config, "dtype": "bfloat16"}, indent=2) + "\n")
    weights = {name: tensor.bfloat16() for name, tensor in load_file(judge / WEIGHTS).items()}
    save_file(weights, target / WEIGHTS, metadata={"format": "pt"})
    (target / WEIGHTS).chmod(0o644)  # safetensors writes for the owner alone


def differing(made: Path) -> int:
    """The exit code: 1 if a file differs from the one that is there."""
    names = sorted({path.name for folder in (made, OUT) for path in folder.iterdir()})
    code = 0
    for name in names:
        new, old = made / name, OUT / name
        same = new.exists() and old.exists() and new.read_bytes() == old.read_bytes()
        print("same" if same else "DIFFERENT", name)
        code |= not same
    return code


if __name__ == "__main__":
    main()
