"""`capo eval` with several thinking budgets and styles: F1 against tokens, of one judge."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from capo_service.engine.base import Completion, CritiqueSampling, EncodedPrompt
from kit_scripted import ScriptedEngine
from kit_service import serving, settings


def capo_eval(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "capo_client", "eval", *map(str, arguments)]
    return subprocess.run(
        [*command, "--n", "2", "--resamples", "20", "--no-plots"],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def report(*arguments: object) -> dict[str, Any]:
    done = capo_eval(*arguments, "--json")
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def data(folder: Path) -> Path:
    """Four solutions with an error, and one without."""
    entries = [
        {
            "question": f"q{n}",
            "steps": ["2+2=4.", "so XYZ" if n else "4"],
            "wrong_steps": [1] if n else [],
        }
        for n in range(5)
    ]
    path = folder / "data.jsonl"
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    return path


class Thinker(ScriptedEngine):
    """Thinks up to twenty tokens, and finds the error from ten on."""

    async def complete(
        self, request: str, prompt: EncodedPrompt, sampling: CritiqueSampling
    ) -> Completion:
        budget = sampling.thinking_tokens
        self.script = lambda asked, _: json.dumps(
            {"incorrect_steps": [1] if budget >= 10 and "XYZ" in asked else []}
        )
        done = await super().complete(request, prompt, sampling)
        thought = min(budget, 20)
        return replace(
            done,
            completion_tokens=done.completion_tokens + thought,
            thinking="t" * thought,
            thinking_tokens=thought,
            thinking_truncated=0 < budget <= 20,
        )


def test_budgets_and_styles_are_judged_in_turn_and_compared(tmp_path: Path) -> None:
    path = data(tmp_path)
    engine = Thinker()
    with serving(engine, settings(tmp_path)) as service:

        def run(budgets: str, *more: str) -> dict[str, Any]:
            found = report(path, "--url", service.url, "--thinking-tokens", budgets, *more)
            return found

        alone = run("0")
        assert alone["thinking_budget"] == 0 and len(engine.prompts) == 5 * 3
        assert alone["thoughts"] == {"mean_tokens": 0, "truncated": 0, "readable": 1}
        both = run("0,10,40")
        assert len(engine.prompts) == 3 * 5 * 3, "the first budget is resumed"
        asked = len(engine.prompts)
        assert run("0,10,40")["f1_by_tokens"] == both["f1_by_tokens"]
        assert len(engine.prompts) == asked
        styles = run("0,10", "--critique-style", "verdict,full")
        shown = capo_eval(path, "--url", service.url, "--thinking-tokens", "0,10,40").stdout
    runs = {run["thinking_budget"]: run for run in both["runs"]}
    assert runs[0]["table"] == alone["table"]
    assert [runs[budget]["thoughts"]["mean_tokens"] for budget in runs] == [0, 10, 20]
    assert [runs[budget]["thoughts"]["truncated"] for budget in runs] == [0, 1, 0]
    rows = {
        (row["thinking_budget"], row["k"]): row
        for row in both["f1_by_tokens"]
        if row["method"] == "majority"
    }
    plain = rows[0, 1]["completion_tokens"]
    assert rows[10, 1]["completion_tokens"] == rows[10, 2]["completion_tokens"] / 2
    assert rows[10, 1]["thinking_tokens"] == 10 and rows[0, 1]["thinking_tokens"] == 0
    assert rows[40, 1]["completion_tokens"] > rows[10, 1]["completion_tokens"] > plain
    assert {budget: rows[budget, 1]["efficient"] for budget in runs} == {
        0: True,
        10: True,
        40: False,
    }
    assert [run["style"] for run in styles["runs"]] == ["verdict", "verdict", "full", "full"]
    folder = tmp_path / "data.jsonl.eval"
    assert {each.name for each in folder.iterdir() if each.is_dir()} == {
        *("thinking-0", "thinking-10", "thinking-40", "verdict-thinking-0"),
        *("verdict-thinking-10", "full-thinking-0", "full-thinking-10"),
    }
    kept = json.loads((folder / "thinking-40" / "report.json").read_text())
    assert kept["table"] == runs[40]["table"]
    assert "brief\t10\tmajority\t1\t1.000 [1.000, 1.000]" in shown
    line = "thinking 10: thoughts: budget 10, mean length 10.0 tokens, 100.0% reached the budget"
    assert line in shown


def test_budgets_of_two_judges_are_not_compared(tmp_path: Path) -> None:
    path = data(tmp_path)
    first, second = Thinker(), Thinker(model="another")
    with (
        serving(first, settings(tmp_path)) as one,
        serving(second, settings(tmp_path)) as two,
    ):
        report(path, "--url", one.url, "--thinking-tokens", "0")
        refused = capo_eval(path, "--url", two.url, "--thinking-tokens", "40")
    assert refused.returncode == 2 and second.prompts == []
    assert "contains results of the judge 'scripted scripted brief json" in refused.stderr
    assert "the service now has 'another" in refused.stderr
