"""Check and measure a judge on this machine's GPU, in about 15 minutes.

    make gpu-check                                     # Qwen/Qwen2.5-7B-Instruct
    make gpu-check MODEL=/models/judge OPTIONS="--engine-arg max_model_len=16384 --price-per-hour 2"

Starts the service with the judge, checks it, measures it; then measures vLLM's own `LLM.generate`
with vLLM's defaults on the same prompts. Writes report.json and report.md, to paste into an issue.
Finished parts are kept: the same command continues where the last one ended. Exit code 0: every
part was run and every check holds.
"""

from __future__ import annotations

import argparse
import json
import secrets
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import checks
import device
import measures
import report
from context import FULL_MINUTES, Context, Found, Part
from processes import StartError, bare, service

from capo_client import CreditClient

MODEL = "Qwen/Qwen2.5-7B-Instruct"
SECRET = "gpu-check"  # bare_llm.py makes the same step tags
SERVED: dict[str, Part] = {
    "readiness": checks.readiness,
    "alignment": checks.alignment,
    "prefix": checks.prefix,
    "throughput": measures.throughput,
    "grammar": checks.grammar,
    "thinking": checks.thinking,
    "early_stop": checks.early_stop,
    "determinism": checks.determinism,
    "styles": measures.styles,
    "votes": measures.votes,
    "budgets": measures.budgets,
    "latency": measures.latency,
}
BARE = "bare_engine"
ORDER = (*SERVED, BARE)


def main() -> int:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the engine is stopped too
    args = _arguments()
    state = _state(args)
    began = time.monotonic()
    wanted = [name for name in args.part or ORDER if not _is_done(state, name)]
    if any(name in SERVED for name in wanted):
        _serve(args, state, [name for name in wanted if name in SERVED], began)
    if BARE in wanted and _is_done(state, "throughput") and not _is_late(args, began):
        _bare(args, state)
    _write(args.out, state)
    print(f"\n{report.markdown(state)}")
    print(f"written in {(time.monotonic() - began) / 60:.1f} minutes: {args.out / 'report.md'}")
    parts = state["parts"].values()
    failed = any(not each["ok"] for part in parts for each in part.get("checks", ()))
    return int(failed or not all(_is_done(state, name) for name in ORDER))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="make gpu-check", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--model", default=MODEL, help="hub name, folder, embedded, testbed, ...")
    parser.add_argument(
        "--engine-arg",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="of vLLM, for the service and for the bare engine; repeatable",
    )
    parser.add_argument("--minutes", type=float, default=FULL_MINUTES, help="in which to end")
    parser.add_argument("--price-per-hour", type=float, help="of the machine, in any currency")
    parser.add_argument("--part", action="append", choices=ORDER, help="repeatable; default: all")
    parser.add_argument("--out", type=Path, default=Path("build/gpu-check"))
    parser.add_argument("--fresh", action="store_true", help="run finished parts again")
    return parser.parse_args()


def _state(args: argparse.Namespace) -> dict[str, Any]:
    """What an earlier run with the same judge on the same machine found, or nothing yet."""
    settings = {"model": args.model, "engine_args": args.engine_arg}
    state = {
        "settings": {**settings, "price_per_hour": args.price_per_hour, "minutes": args.minutes},
        "device": device.about(),
        "order": ORDER,
        "parts": {},
    }
    path = args.out / "report.json"
    if args.fresh or not path.exists():
        return state
    before = json.loads(path.read_text("utf-8"))
    same = {name: before["settings"].get(name) for name in settings} == settings
    if same and before["device"] | {"commit": ""} == state["device"] | {"commit": ""}:
        print(f"continuing {path}; --fresh begins again")
        return state | {"parts": before["parts"]}
    kept = path.with_name("report-before.json")
    path.rename(kept)
    print(f"{path} was of another judge, version or machine, and is now {kept}")
    return state


def _is_done(state: dict[str, Any], name: str) -> bool:
    return bool(state["parts"].get(name, {}).get("status") == "done")


def _is_late(args: argparse.Namespace, began: float) -> bool:
    late = time.monotonic() - began > 60 * args.minutes
    if late:
        print(f"{args.minutes:g} minutes are over; the same command runs the parts that are left")
    return late


def _serve(
    args: argparse.Namespace, state: dict[str, Any], wanted: Sequence[str], began: float
) -> None:
    """Start the service and run parts on it."""
    log = args.out / "service.log"
    print(f"starting the service with {args.model} (log: {log})", flush=True)
    settings = {"CAPO_NONCE_SECRET": SECRET}
    try:
        with (
            service(args.model, args.engine_arg, log, settings) as (url, ready_s),
            CreditClient(url) as client,
        ):
            print(f"  ready after {ready_s:.0f} s", flush=True)
            info = client.info()
            run = secrets.token_hex(4)
            context = Context(url, client, info, args.model, ready_s, args.minutes, run)
            for name in wanted:
                if _is_late(args, began):
                    break
                with _recorded(args, state, name) as record:
                    record(SERVED[name](context))
    except StartError as error:
        _record_start(args, state, "readiness", error)


def _bare(args: argparse.Namespace, state: dict[str, Any]) -> None:
    log = args.out / "bare-engine.log"
    print(f"starting vLLM's LLM with its own defaults (log: {log})", flush=True)
    try:
        with bare(args.model, args.engine_arg, log) as (ask, ready):
            print(f"  ready after {ready['ready_s']:.0f} s", flush=True)
            with _recorded(args, state, BARE) as record:
                served = state["parts"]["throughput"]["numbers"]
                record(measures.bare_engine(ask, ready, served))
    except StartError as error:
        _record_start(args, state, BARE, error)


@contextmanager
def _recorded(
    args: argparse.Namespace, state: dict[str, Any], name: str
) -> Iterator[Callable[[Found], None]]:
    """Write what a part finds, or the error that ended it; the next part is run all the same."""
    print(f"{name}: ", end="", flush=True)
    began = time.monotonic()

    def record(found: Found) -> None:
        state["parts"][name] = {"status": "done", **asdict(found)}

    try:
        yield record
    except StartError:
        raise
    except Exception as error:  # of any part; the others may work
        state["parts"][name] = {
            "status": "failed",
            "error": f"{type(error).__name__}: {error}",
            "checks": [],
            "notes": [],
            "traceback": traceback.format_exc(),
        }
    part = state["parts"][name]
    part["seconds"] = time.monotonic() - began
    bad = [each["name"] for each in part["checks"] if not each["ok"]]
    outcome = "FAILED: " + "; ".join(bad) if bad else part.get("error", "ok")
    print(f"{outcome} ({part['seconds']:.0f} s)", flush=True)
    _write(args.out, state)


def _record_start(
    args: argparse.Namespace, state: dict[str, Any], name: str, error: StartError
) -> None:
    print(error, file=sys.stderr)
    state["parts"][name] = {
        "status": "failed",
        "error": str(error),
        "checks": [],
        "notes": [],
        "seconds": 0.0,
    }
    _write(args.out, state)


def _write(out: Path, state: dict[str, Any]) -> None:
    out.mkdir(parents=True, exist_ok=True)
    (out / "report.json").write_text(json.dumps(state, indent=2) + "\n", "utf-8")
    (out / "report.md").write_text(report.markdown(state), "utf-8")


if __name__ == "__main__":
    sys.exit(main())
