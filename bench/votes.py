"""Three ways to spend less on votes: exact votes, cascades, and groups in one prompt.

    make bench-votes                               (about an hour on two cores)
    .venv/bin/python bench/votes.py --collect      (what was measured so far)

Runs votes_exact.py, votes_cascade.py and votes_group.py one after the other, each with its own
table, and writes what they found to build/bench/votes.json. The testbed's judges are needed: `capo
testbed`, and `capo testbed --thinking` for the cascade to thoughts.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from engines import OUT

WAYS = ("exact", "cascade", "group")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--collect", action="store_true", help="measure nothing")
    collect_only = parser.parse_args().collect
    found: dict[str, Any] = {}
    for way in WAYS:
        if not collect_only:
            script = Path(__file__).with_name(f"votes_{way}.py")
            subprocess.run([sys.executable, str(script)], check=True)
        path = OUT / f"votes_{way}.json"
        if path.exists():
            found[way] = json.loads(path.read_text())
    if missing := [way for way in WAYS if way not in found]:
        print(f"not measured: {', '.join(missing)}")
    (OUT / "votes.json").write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
