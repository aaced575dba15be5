"""Constraints before and after structural tags, and thoughts: latency, tokens, validity, step F1.

    make bench-thinking                     # tables, and build/bench/thinking.json
    make bench-thinking DATA=FOLDER

"Before" is the GBNF form of the same verdicts, which servers without structural tags still get;
"after" is the structural tag. Both run on one engine, one after the other, with the same prompts,
seeds and solutions. The engine is vLLM in a process of its own, with the judge of the package
(`embedded`) on BIG-Bench Mistake, whose file DATA holds, and with the testbed's judge on its own
kind of stories. The judge that thinks is measured by bench/thinking_testbed.py. What is not on this
machine is left out, and the command that makes it is printed.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from engines import LOGS, OUT
from rich.console import Console
from rich.table import Table
from thinking_engine import BEFORE, STYLES, Row

from capo_service.core.verdicts.step_list import ANALYSIS_TOKENS, StepList
from capo_service.engine import embedded
from capo_service.engine.thinking import structural_tag
from capo_trainer.paths import testbed_folder

DATA = Path(os.environ.get("DATA", Path(__file__).parents[2] / "shared" / "data"))
LABELLED = "big_bench_mistake_multistep_arithmetic.jsonl"
STORIES = OUT / "stories.jsonl"
STEPS = 8  # of the shapes whose masks are timed
WALKS = 6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=DATA, help="folder with labelled solutions")
    parser.add_argument("--solutions", type=int, default=60, help="of each judge")
    parser.add_argument("--budgets", type=int, nargs="*", default=[32, 160])
    parser.add_argument("--rollouts", type=int, default=400, help="of the judge that thinks")
    options = parser.parse_args()
    LOGS.mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = {"mask_us_per_token": masks()}
    rows: list[Row] = []
    first: dict[str, Any] = {}
    for judge, data in judges(options.data):
        measured = on_engine(judge, data, options.solutions, options.budgets)
        rows += measured["rows"]
        first[judge] = measured["first"]
    seconds = first.get("embedded", {})
    for name in ("before", "after"):
        found[f"first_critique_s_{name}"] = {
            style: seconds[style][name]["first"] for style in seconds
        }
    after = [row for row in rows if row["form"] != BEFORE]
    found["valid_share"] = mean(row["valid"] for row in after) if after else None
    found |= think_or_vote(options.rollouts)
    found |= {"rows": rows, "first_critiques": first}
    path = OUT / "thinking.json"
    path.write_text(json.dumps(found, indent=2) + "\n")
    show(found)
    print(f"written: {path}")


def judges(data: Path) -> Iterator[tuple[str, Path]]:
    """The judges on this machine, each with labelled solutions."""
    if (data / LABELLED).exists():
        yield "embedded", data / LABELLED
    else:
        print(f"skipped: the embedded judge, for {data} has no {LABELLED}; set DATA=FOLDER")
    if not (testbed_folder() / "judge").exists():
        print("skipped: the testbed's judge; build it with `capo testbed`")
    elif not STORIES.exists():
        print("skipped: the testbed's judge; write its solutions with `make bench-stories`")
    else:
        yield "testbed", STORIES


def on_engine(judge: str, data: Path, solutions: int, budgets: Sequence[int]) -> dict[str, Any]:
    """Measure a judge in a process of its own: see thinking_engine.py."""
    log = LOGS / f"thinking-{judge}.log"
    with tempfile.NamedTemporaryFile("r") as answer, log.open("w") as output:
        command = [
            sys.executable,
            str(Path(__file__).with_name("thinking_engine.py")),
            *("--judge", judge, "--data", str(data), "--solutions", str(solutions)),
            *("--budgets", *map(str, budgets), "--out", answer.name),
        ]
        done = subprocess.run(command, stdout=output, stderr=output, check=False, timeout=3600)
        if done.returncode:
            raise SystemExit(f"the engine of {judge} ended with {done.returncode}; see {log}")
        return dict(json.load(answer))


def masks() -> dict[str, dict[str, float]]:
    """Microseconds that xgrammar needs for a token's mask, by style and form."""
    import xgrammar
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(embedded.folder())
    info = xgrammar.TokenizerInfo.from_huggingface(tokenizer, vocab_size=len(tokenizer))
    compiler = xgrammar.GrammarCompiler(info, max_threads=1)
    found = {}
    for style in STYLES:
        shape = StepList(STEPS, ANALYSIS_TOKENS[style])
        found[style] = {
            "before": walked(compiler.compile_grammar(shape.grammar()), info),
            "after": walked(compiler.compile_structural_tag(structural_tag(None, 0, shape)), info),
        }
    return found


def walked(compiled: Any, info: Any) -> float:
    """Mean microseconds of a mask, over critiques whose tokens are drawn from what it allows."""
    import numpy as np
    import xgrammar

    chance, mask = random.Random(0), xgrammar.allocate_token_bitmask(1, info.vocab_size)
    seconds = []
    for _ in range(WALKS):
        matcher = xgrammar.GrammarMatcher(compiled)
        while not matcher.is_terminated():
            started = time.perf_counter()
            matcher.fill_next_token_bitmask(mask)
            seconds.append(time.perf_counter() - started)
            bits = np.unpackbits(mask[0].numpy().view(np.uint8), bitorder="little")
            matcher.accept_token(int(chance.choice(np.flatnonzero(bits[: info.vocab_size]))))
    return mean(seconds) * 1e6


def think_or_vote(rollouts: int) -> dict[str, Any]:
    """Step F1 and tokens of the testbed's judge that thinks, by budget."""
    import thinking_testbed

    from capo_service.engine.local_models import local_model

    try:
        local_model(thinking_testbed.THINKER)
    except ValueError as error:
        print(f"skipped: the judge that thinks: {error}")
        return {"testbed_f1": None, "tokens": None}
    found = thinking_testbed.measure(rollouts)
    return {
        "testbed_f1": found["testbed_f1"],
        "tokens": found["tokens"],
        "think_or_vote": found["rows"],
    }


def show(found: dict[str, Any]) -> None:
    console = Console(width=110)
    title = "Seconds of the first critique of a style on a fresh engine, its prompt cached"
    columns = ("judge", "style", "form", "first", "its first token", "the rest", "other length")
    table = Table(*columns, title=title, caption="other length: first token with other steps")
    for judge, styles in found["first_critiques"].items():
        for style, forms in styles.items():
            for form, seconds in forms.items():
                times = (
                    f"{seconds[name]:.3f}"
                    for name in ("first", "first_token", "critique", "other_length")
                )
                table.add_row(judge, style, form, *times)
    console.print(table)
    table = Table("style", "before", "after", title="Microseconds of a mask")
    for style, times in found["mask_us_per_token"].items():
        table.add_row(style, f"{times['before']:.1f}", f"{times['after']:.1f}")
    console.print(table)
    columns = ("judge", "style", "form", "thinking", "critiques", "valid", "tokens", "cut", "F1")
    table = Table(*columns, "step F1", "seconds", title="One critique of each solution")
    for row in found["rows"]:
        table.add_row(
            *(row["judge"], row["style"], "before" if row["form"] == BEFORE else "after"),
            *(str(row["budget"]), str(row["critiques"])),
            f"{row['valid']:.3f}",
            f"{row['tokens']:.1f}",
            f"{row['truncated']:.2f}",
            *("-" if row[name] is None else f"{row[name]:.3f}" for name in ("f1", "step_f1")),
            f"{row['seconds']:.1f}",
        )
    console.print(table)
    for name in ("valid_share", "testbed_f1", "tokens"):
        print(f"{name}: {json.dumps(found[name])}")


if __name__ == "__main__":
    main()
