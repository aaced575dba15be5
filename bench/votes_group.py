"""All rollouts of a question in one prompt, against a prompt for each: F1, judge tokens, time.

    .venv/bin/capo testbed                             (once)
    .venv/bin/python bench/votes_group.py              (trains two judges first)

Testbed: greedy and sampled verdicts on vLLM, under a grammar that asks for one verdict a rollout,
of judges that were never shown a group (`testbed`, `testbed-f80`), and of two that were trained
from `testbed` on the same rollouts for the same number of tokens, on single prompts and on groups;
a third one was trained on groups for four times as many. Embedded judge: through the service, the
rollouts of a question joined to one, with a heading before each. Writes
build/bench/votes_group.json.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import group_judge
import numpy as np
from engines import LOGS, OUT, credited, service
from group_judge import SIZE, Group, Training
from rich.console import Console
from rich.table import Table
from votes_group_engine import SAMPLED

from capo_testbed import tasks
from capo_testbed.common import held_out_tasks
from capo_trainer.paths import testbed_folder

TRAINED = OUT / "group_judge"
FULL = Training()
QUICK = Training(tokens=2000, more=2000, questions=8, batch=8)
QUESTIONS = 200
EMBEDDED_QUESTIONS = 16
REPLICATES = 2000
_LIST = re.compile(r"\[([\d, ]*)\]")

Named = list[set[int]]  # steps that are called wrong, of each rollout


@dataclass(frozen=True, slots=True)
class Row:
    """A judge and a form of its prompts, on all rollouts.

    `prompt_tokens`: of a rollout, without what the prefix cache holds; None: unknown. `tokens`:
    sampled, of a rollout. `seconds`: of a rollout, all prompts given to the engine at once. `k`:
    critiques that vote; 1: greedy. `difference`: interval of F1 less that of single prompts, paired
    by question.
    """

    judge: str
    form: str
    k: int
    f1: float
    prompt_tokens: float | None
    tokens: float
    seconds: float
    difference: tuple[float, float] | None = None


def measure(
    questions: int = QUESTIONS,
    embedded: int = EMBEDDED_QUESTIONS,
    trained: Path = TRAINED,
    how: Training = FULL,
) -> dict[str, Any]:
    """Measure all judges; those that are trained on groups are trained first, if need be."""
    import torch
    from transformers import AutoTokenizer, LlamaForCausalLM

    folder = testbed_folder()
    if not (trained / "group-longer").exists():
        group_judge.train(folder, trained, 0, print, how)
    tokenizer = AutoTokenizer.from_pretrained(folder / "policy", padding_side="left")
    policy = LlamaForCausalLM.from_pretrained(folder / "policy")
    torch.manual_seed(1)
    groups = group_judge.sampled_groups(policy, tokenizer, held_out_tasks(questions))
    alone = group_judge.singles(groups, folder / "policy", tokenizer)
    prompts = {
        "single": [list(each.ids[: each.start]) for each in alone],
        "group": [list(each.ids[: each.start]) for each in group_judge.grouped(alone, tokenizer)],
    }
    judges = {
        "testbed": (folder / "judge", ("single", "group")),
        "testbed-f80": (folder / "judge-f80", ("single", "group")),
        "trained on single prompts": (trained / "single", ("single",)),
        "trained on groups": (trained / "group", ("group", "single")),
        "trained on groups, longer": (trained / "group-longer", ("group", "single")),
    }
    rows: list[Row] = []
    for judge, (path, forms) in judges.items():
        asked = {form: prompts[form] for form in forms}
        rows += rows_of(judge, groups, on_engine(path, asked))
    rows += through_service(groups[:embedded]) if embedded else []
    return {
        "questions": len(groups),
        "rollouts": len(groups) * SIZE,
        "rows": [asdict(row) for row in rows],
    }


def on_engine(path: Path, prompts: dict[str, list[list[int]]]) -> dict[str, Any]:
    """Verdicts of a judge on vLLM, in a process of its own, for each form of prompts."""
    log = LOGS / "votes-group.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch, log.open("a") as output:
        given, got = Path(scratch) / "prompts.json", Path(scratch) / "verdicts.json"
        given.write_text(json.dumps(prompts))
        engine = Path(__file__).with_name("votes_group_engine.py")
        command = list(map(str, (sys.executable, engine, path, given, got)))
        done = subprocess.run(command, stdout=output, stderr=output, check=False, timeout=1800)
        if done.returncode:
            raise SystemExit(f"the engine ended with {done.returncode}; see {log}")
        return dict(json.loads(got.read_text()))


def rows_of(judge: str, groups: Sequence[Group], found: dict[str, Any]) -> list[Row]:
    """The rows of a judge, and its forms compared."""
    rollouts = [each for group in groups for each in group]
    counted = {
        name: _counts(groups, majority(each["texts"], name.startswith("group")))
        for name, each in found.items()
    }
    rows = []
    for name, each in found.items():
        form, _, k = name.partition("@")
        other = counted.get(f"single@{k}")
        rows.append(
            Row(
                judge,
                form,
                int(k),
                f1=_f1(counted[name]),
                prompt_tokens=None
                if each["uncached"] is None
                else each["uncached"] / len(rollouts),
                tokens=each["tokens"] / len(rollouts),
                seconds=each["seconds"] / len(rollouts),
                difference=interval(counted[name], other)
                if form == "group" and other is not None
                else None,
            )
        )
    return rows


def majority(texts: Sequence[Sequence[str]], is_group: bool) -> Named:
    """The steps of each rollout that at least half of the critiques of its prompt name."""
    named: Named = []
    for critiques in texts:
        lists = [_LIST.findall(text) for text in critiques]
        for number in range(SIZE if is_group else 1):
            said = [
                {int(n) for n in re.findall(r"\d+", each[number])}
                for each in lists
                if number < len(each)
            ]
            steps = set().union(*said)
            named.append({s for s in steps if 2 * sum(s in each for each in said) >= len(said)})
    return named


def _counts(groups: Sequence[Group], named: Named) -> np.ndarray[Any, Any]:
    """(questions, 3): hits, named steps and wrong steps."""
    rollouts = [each for group in groups for each in group]
    rows = []
    for rollout, said in zip(rollouts, named, strict=True):
        wrong = {step for step, is_wrong in enumerate(rollout.wrong()) if is_wrong}
        rows.append((len(said & wrong), len(said), len(wrong)))
    return np.array(rows, dtype=float).reshape(len(groups), SIZE, 3).sum(1)


def _f1(counts: np.ndarray[Any, Any]) -> float:
    hits, named, wrong = counts.sum(0)
    return float(2 * hits / max(named + wrong, 1))


def interval(ours: np.ndarray[Any, Any], other: np.ndarray[Any, Any]) -> tuple[float, float]:
    """95% interval of the difference of two F1, by bootstrap over questions."""
    chance = np.random.default_rng(0)
    differences = []
    for _ in range(REPLICATES):
        drawn = chance.integers(len(ours), size=len(ours))
        differences.append(_f1(ours[drawn]) - _f1(other[drawn]))
    low, high = np.percentile(differences, (2.5, 97.5))
    return float(low), float(high)


def through_service(groups: Sequence[Group], judge: str = "embedded") -> list[Row]:
    """A judge through the service: each rollout alone, then those of a question joined to one."""
    single = [
        sent(each.task.question, [each.response], heading=False) for g in groups for each in g
    ]
    joined = [sent(g[0].task.question, [e.response for e in g], heading=True) for g in groups]
    found = {}
    with service("verdict", judge) as url:
        for k in (1, SAMPLED):
            voting = {"n": k, "early_stop": False, "seed": 1, "critique_style": "verdict"}
            for form, given in (("single", single), ("group", joined)):
                seconds, got = credited(url, given, voting)
                flagged = [{s.index for s in each.steps if s.wrong} for each in got.credited]
                if form == "group":
                    flagged = [
                        own for g, f in zip(groups, flagged, strict=True) for own in cut(g, f)
                    ]
                found[f"{form}@{k}"] = (seconds, got.usage, _counts(groups, flagged))
    count = len(groups) * SIZE
    return [
        Row(
            judge,
            name.partition("@")[0],
            int(name.partition("@")[2]),
            f1=_f1(counts),
            prompt_tokens=(usage.prompt_tokens - usage.cached_tokens) / count,
            tokens=usage.completion_tokens / count,
            seconds=seconds / count,
            difference=interval(counts, found[f"single@{name[-1]}"][2])
            if name.startswith("group")
            else None,
        )
        for name, (seconds, usage, counts) in found.items()
    ]


def sent(question: str, responses: Sequence[str], heading: bool) -> dict[str, Any]:
    """A rollout for the service, with the spans of its steps."""
    text, spans = "", []
    for number, response in enumerate(responses, 1):
        for index, step in enumerate(tasks.split(response)):
            head = f"Solution {number}:\n" if heading and not index else ""
            spans.append([len(text), len(text) + len(head + step)])
            text += head + step
    return {"question": question, "response": text, "outcome": 1.0, "steps": spans}


def cut(group: Group, flagged: set[int]) -> Named:
    """The steps of a joined rollout, for each of its parts."""
    named, first = [], 0
    for rollout in group:
        count = len(tasks.split(rollout.response))
        named.append({step - first for step in flagged if first <= step < first + count})
        first += count
    return named


def show(found: dict[str, Any]) -> None:
    columns = ("judge", "prompts", "k", "step F1", "less single, 95%", "prompt", "tokens", "ms")
    title = f"{found['rollouts']} rollouts of {found['questions']} questions; tokens of a rollout"
    table = Table(*columns, title=title)
    for row in found["rows"]:
        difference = row["difference"]
        table.add_row(
            row["judge"],
            row["form"],
            str(row["k"]),
            f"{row['f1']:.3f}",
            "{:+.3f} to {:+.3f}".format(*difference) if difference else "",
            "" if row["prompt_tokens"] is None else f"{row['prompt_tokens']:.1f}",
            f"{row['tokens']:.1f}",
            f"{1000 * row['seconds']:.1f}",
        )
    Console(width=120).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--questions", type=int, default=QUESTIONS)
    parser.add_argument("--embedded", type=int, default=EMBEDDED_QUESTIONS)
    parser.add_argument("--trained", type=Path, default=TRAINED)
    parser.add_argument("--quick", action="store_true", help="only see that it runs")
    options = parser.parse_args()
    if options.quick:
        with tempfile.TemporaryDirectory() as trained:
            show(measure(4, 0, Path(trained), QUICK))
        return
    found = measure(options.questions, options.embedded, options.trained)
    OUT.mkdir(parents=True, exist_ok=True)
    path = OUT / "votes_group.json"
    path.write_text(json.dumps(found, indent=2) + "\n")
    show(found)
    print(f"written: {path}")


if __name__ == "__main__":
    main()
