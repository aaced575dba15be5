"""Write requirements/*.txt with `uv pip compile`: pins with hashes, and no index addresses.

    make lock                        # keeps every pin that still fits
    make lock OPTIONS=--upgrade      # or another option of `uv pip compile`

The extras of pyproject.toml give .venv's lists; demo.txt, a part of cpu.txt, is what `make demo`
needs; requirements/adapters/*.in give one list for each environment that tests an adapter. uv only
resolves: `pip install --no-deps -r` installs the lists, and checks the hashes. Needs uv 0.13. See
CONTRIBUTING.md.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "requirements"
# A package is in the first list that needs it.
LISTS = {
    "cpu": ("service", "cpu", "embedded", "redis", "otel"),
    "trainer": ("trainer",),
    "dev": ("dev",),
    "deploy": ("ray", "deploy"),
}
# The demo needs a part of these, without what this file names and what only that needs.
DEMO = ("service", "cpu")
DEMO_EXCLUDED = FOLDER / "demo-excluded.in"
HEADER = """\
# Written by `make lock` from {source}.
# For Python 3.11 on Linux x86_64. Install with `pip install --no-deps -r`; pip checks the hashes.
"""
UV = [sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--no-config"]
UV += ["--no-header", "--no-annotate", "--excludes", str(FOLDER / "excluded.in")]
# Not "3.11", which uv reads as 3.11.0: some of the pinned versions need 3.11.5.
UV += ["--python-version", "3.11.5", "--python-platform", "x86_64-unknown-linux-gnu"]
# torch's CPU build is in a folder that pip knows, or in PyTorch's index.
if "PIP_FIND_LINKS" in os.environ:
    UV += ["--find-links", os.environ["PIP_FIND_LINKS"]]
else:
    UV += ["--torch-backend", "cpu"]


def main() -> None:
    options = sys.argv[1:]
    paths = {name: FOLDER / f"{name}.txt" for name in LISTS}
    kept = "".join(path.read_text() for path in paths.values())
    pins = resolve(with_extras(*sum(LISTS.values(), ())), kept, *options)
    written: set[str] = set()
    for name, extras in LISTS.items():
        names = resolve(with_extras(*extras), "".join(pins.values())).keys() - written
        written |= names
        source = f"pyproject.toml: [{','.join(extras)}]"
        write(paths[name], source, {each: pins[each] for each in names})
    write_demo(pins)
    for requirements in sorted((FOLDER / "adapters").glob("*.in")):
        path = requirements.with_suffix(".txt")
        kept = path.read_text() if path.exists() else ""
        pins = resolve(["pyproject.toml", str(requirements)], kept, *options)
        # Frameworks of which the tests need the files, and not the dependencies for GPUs.
        bare = requirements.with_suffix(".no-deps")
        if bare.exists():
            pins |= resolve([str(bare)], kept, "--no-deps", *options)
        write(path, str(requirements.relative_to(ROOT)), pins)


def write_demo(pins: dict[str, str]) -> None:
    options = ("--excludes", str(DEMO_EXCLUDED))
    names = resolve(with_extras(*DEMO), "".join(pins.values()), *options)
    source = f"pyproject.toml: [{','.join(DEMO)}], without {DEMO_EXCLUDED.name}"
    write(FOLDER / "demo.txt", source, {name: pins[name] for name in names})


def with_extras(*extras: str) -> list[str]:
    return ["pyproject.toml", *(f"--extra={extra}" for extra in extras)]


def resolve(sources: list[str], kept: str, *options: str) -> dict[str, str]:
    """Name -> pin and its hashes, as lines; pins in `kept` are preferred."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "pins.txt"
        output.write_text(kept)
        command = [*UV, "--generate-hashes", *sources, f"--output-file={output}", *options]
        subprocess.run(command, cwd=ROOT, check=True)
        entries = re.split(r"^(?=\S)", output.read_text(), flags=re.MULTILINE)
    return {entry.split("==")[0]: entry for entry in entries if entry}


def write(path: Path, source: str, pins: dict[str, str]) -> None:
    path.write_text(HEADER.format(source=source) + "".join(pins[name] for name in sorted(pins)))
    print(f"{path.relative_to(ROOT)}: {len(pins)} packages")


if __name__ == "__main__":
    main()
