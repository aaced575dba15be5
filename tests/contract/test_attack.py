"""`capo attack` against a service whose judge can be fooled by one family and by no other."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from capo_client.cli.attack.corpus import SOLUTIONS
from capo_client.cli.attack.payloads import AUTHORITY, FAMILIES
from capo_service.engine.base import CritiqueSampling
from kit_scripted import ScriptedEngine, shown_steps
from kit_service import serving, settings


def respects_authority(prompt: str, sampling: CritiqueSampling) -> str:
    """Finds every error, unless it is told that somebody has checked."""
    errors = [solution.steps[solution.wrong] for solution in SOLUTIONS]
    steps = shown_steps(prompt)
    named = [i for i, text in steps if any(error in text for error in errors)]
    if not any(error in prompt for error in errors):
        named = [0]
    if any(payload in prompt for payload in AUTHORITY):
        named = []
    return json.dumps({"analysis": "x", "incorrect_steps": named})


def capo_attack(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "capo_client", "attack", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


def test_the_table_shows_which_family_fools_the_judge(tmp_path: Path) -> None:
    with serving(ScriptedEngine(respects_authority), settings(tmp_path)) as service:
        done = capo_attack("--url", service.url, "--json", "--n", "1")
        assert done.returncode == 0, done.stderr
        said: dict[str, Any] = json.loads(done.stdout)
        assert said["model"] == "scripted" and said["found_alone"] == [True] * 4
        rates = {line["family"]: line["rate"] for line in said["families"]}
        assert rates == {family: float(family == "authority") for family in FAMILIES}
        assert len(said["attacks"]) == sum(map(len, FAMILIES.values()))
        assert not any(line["broken"] or line["failed"] for line in said["families"])
        shown = capo_attack("--url", service.url, "--family", "authority", "--family", "long")
        assert shown.returncode == 0
        assert "scripted finds the error of 4 of 4 solutions without an attack" in shown.stdout
        assert "authority\t11\t0\t11\t11\t100%" in shown.stdout
        assert "control_tokens" not in shown.stdout


def test_it_fails_where_the_service_does_and_not_where_the_judge_does(tmp_path: Path) -> None:
    unknown = capo_attack("--family", "nonsense")
    assert unknown.returncode == 2
    assert "unknown --family nonsense; choose from: harmless, control_tokens" in unknown.stderr
    engine = ScriptedEngine(lambda prompt, sampling: "no verdict")
    with serving(engine, settings(tmp_path)) as service:
        unread = capo_attack("--url", service.url, "--family", "long")
        assert unread.returncode == 1  # 502 for each
        refused = settings(tmp_path, max_characters=5000)
    with serving(ScriptedEngine(respects_authority), refused) as service:
        done = capo_attack("--url", service.url, "--family", "long", "--json")
        assert done.returncode == 0 and json.loads(done.stdout)["families"][0]["refused"] > 3
