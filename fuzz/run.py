"""Fuzz one target, or all for so many seconds each.

    make fuzz                                      # a minute each
    .venv/bin/python fuzz/run.py 10                # ten seconds each
    .venv/bin/python fuzz/run.py 3600 align        # one target for an hour

What is found grows in build/fuzz/NAME, and goes on from there the next time. An input that breaks a
promise is left in build/fuzz, and the exit status is not 0.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

_SAID = {True: "fine", False: "failed"}
ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "fuzz")]


def main() -> None:
    if sys.argv[1:2] == ["--one"]:
        fuzz(sys.argv[2], sys.argv[3:])
    seconds, names = (sys.argv[1:2] or ["60"])[0], sys.argv[2:]
    from targets import TARGETS

    failed = []
    for name in names or TARGETS:
        folder = ROOT / "build" / "fuzz" / name
        folder.mkdir(parents=True, exist_ok=True)
        command = [
            sys.executable, __file__, "--one", name, str(folder), f"-max_total_time={seconds}",
            f"-artifact_prefix={folder.parent}/{name}-", "-timeout=10", "-verbosity=0",
            "-print_final_stats=1", "-max_len=4096",
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        said = done.stdout + done.stderr
        counts = re.findall(r"number_of_executed_units: *(\d+)", said)
        print(f"{name}: {counts[-1] if counts else 'some'} inputs,", _SAID[done.returncode == 0])
        if done.returncode:
            failed.append(name)
            print(said[-4000:])
    if failed:
        sys.exit(f"fuzz: {', '.join(failed)} broke a promise; the input is in build/fuzz")


def fuzz(name: str, arguments: list[str]) -> None:
    import atheris
    from targets import TARGETS

    atheris.Setup([sys.argv[0], *arguments], TARGETS[name])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
