"""Exact votes in `capo credit` and `capo eval`."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError
from rich.console import Console

import capo_wire as wire
from capo_client.cli.evaluate import judging, measures, report
from capo_client.cli.evaluate.examples import LabelledExample
from capo_client.cli.evaluate.measures import JudgedExample
from capo_client.cli.evaluate.variants import Variant
from capo_client.cli.render import steps_table


def result(wrong: set[int], decided: bool = True) -> dict[str, Any]:
    return {
        "status": "ok",
        "steps": [{"index": step, "wrong": step in wrong} for step in range(2)],
        "exact": {"decided": decided, "unread": 0.0},
        "usage": {"critiques_run": 2, "completion_tokens": 10, "prompt_tokens": 50},
    }


def test_exact_votes_are_measured_like_a_line_of_the_table() -> None:
    wrong = [(False, True), (True, False), (False, False)]
    judged = [JudgedExample(LabelledExample("q", ("a", "b"), each), (), None) for each in wrong]
    found = [result({1}), result({1}, decided=False), result(set())]
    results = judging.Results([], [], None, found)
    line = report._exact(judged, results.exact, 50, 0)
    assert line is not None and line["step_f1"] == 0.5 and line["correct_accuracy"] == 1
    assert line["requests"] == 2 and line["undecided"] == 1
    assert line["tokens"]["completion_tokens"] == pytest.approx(10)
    assert line["tokens"]["prompt_tokens"] == pytest.approx(50)
    table = measures.table(judged, 1, 50, 0)
    assert line.keys() - {"tokens", "requests", "undecided"} == table[0].keys()
    assert report._exact(judged, None, 50, 0) is None


def test_a_rollout_that_failed_counts_as_missed() -> None:
    found = [result({0}), {"status": "error"}]
    assert judging.exact_wrong_steps(found) == [{0}, None]


def test_eval_asks_for_exact_votes_of_each_variant() -> None:
    sampling = {"n": 8, "early_stop": False, "seed": 1, "temperature": 0.5}
    asked = judging.ask(Variant(), sampling, {"top_p": 0.8}, with_exact=True)
    wanted = {"method": "majority", "exact": True, "temperature": 0.5, "top_p": 0.8}
    assert asked.exact == wanted
    assert judging.ask(Variant(), sampling, {}).exact is None
    with pytest.raises(ValidationError, match="use critique_style verdict"):
        judging.ask(Variant("full"), sampling, {}, with_exact=True)
    assert "exact" not in report.VARIED


def test_the_terminal_shows_shares() -> None:
    step = {"index": 0, "span": (0, 1), "token_span": None, "wrong": True, "penalty": 1.0}
    votes = {"wrong": 1, "valid": 2, "asked": 16, "share": 0.834}
    shown = wire.Step.model_validate({**step, "votes": votes, "reward": 0.0})
    console = Console(width=80)
    with console.capture() as text:
        console.print(steps_table("a", [shown], (0.0, 1.0)))
    assert "83%" in text.get() and "1/2" not in text.get()
