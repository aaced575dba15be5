"""A real judge thinks within its budget, and its verdict can be read; the same on both engines."""

from __future__ import annotations

from typing import Any

import pytest

from capo_client import CreditClient, Credited, Rollout
from capo_service.core.verdicts.base import Style
from capo_service.core.verdicts.step_list import StepList
from capo_service.engine.thinking import DEFAULT_MARKERS, ThoughtEnd
from kit_engine import Running

BUDGET, K, LIMIT = 32, 4, 150
STEPS = ("He has $3 \\cdot 4 = 12$ apples.", "He eats 2, so $12 - 2 = 9$ are left.", "It is 9.")
# The embedded model has no token that ends thoughts, so a text does.
END = ThoughtEnd(DEFAULT_MARKERS.closing)


def credited(service: Running, outcome: float, *include: str, **voting: Any) -> Credited:
    """Credit a rollout; a different `outcome` keeps it apart from those before."""
    rollout = Rollout(
        question="Tom has 3 boxes of 4 apples and eats 2. How many are left?",
        response="\n\n".join(STEPS),
        outcome=outcome,
    )
    given = {"n": K, "early_stop": False, **voting}
    with CreditClient(service.url) as client:
        [found] = client.credit(
            [rollout], deadline=300, voting=given, include=["critiques", *include]
        )
    assert isinstance(found, Credited), found
    return found


@pytest.mark.parametrize("style", ["verdict", "brief", "full"])
def test_critiques_with_a_thought_are_valid_and_within_their_bound(
    service: Running, style: Style
) -> None:
    # The limit holds for what follows the thought, and shortens the analysis of `full`.
    found = credited(
        service, 0, "thinking", thinking_tokens=BUDGET, critique_style=style, max_tokens=LIMIT
    )
    critiques = found.critiques or []
    assert len(critiques) == K
    for critique in critiques:
        assert critique.valid and critique.finish_reason == "stop", critique
        assert 0 <= critique.thinking_tokens <= BUDGET
        assert critique.thinking_truncated == (critique.thinking_tokens == BUDGET)
        assert critique.thinking is not None or critique.thinking_tokens == 0
        assert END.marker not in (critique.thinking or "") + critique.text
        assert critique.text.startswith('{"')
    usage = found.usage
    assert usage.thinking_tokens == sum(critique.thinking_tokens for critique in critiques)
    verdict = StepList.fitting(len(STEPS), style, LIMIT, "structural_tag")
    assert verdict is not None
    bound = verdict.max_tokens("structural_tag")
    assert usage.completion_tokens <= K * (BUDGET + END.max_tokens + bound)
    assert usage.completion_tokens > usage.thinking_tokens > 0


def test_a_judge_that_never_ends_its_thought_is_ended_at_its_budget(service: Running) -> None:
    """The embedded model never writes the marker within two tokens."""
    found = credited(service, 0.1, thinking_tokens=2, critique_style="verdict")
    for critique in found.critiques or []:
        assert critique.thinking_tokens == 2 and critique.thinking_truncated and critique.valid


def test_the_thought_is_returned_only_on_request(service: Running) -> None:
    found = credited(service, 0.2, thinking_tokens=8, critique_style="verdict")
    for critique in found.critiques or []:
        assert critique.thinking is None and critique.thinking_tokens > 0


def test_the_same_service_judges_without_thoughts(service: Running) -> None:
    for voting in ({"thinking_tokens": 0}, {}):
        found = credited(service, 0.3, "thinking", critique_style="verdict", **voting)
        assert found.usage.thinking_tokens == 0
        for critique in found.critiques or []:
            assert critique.valid and critique.thinking is None
            assert critique.thinking_tokens == 0 and not critique.thinking_truncated
        bound = StepList(len(STEPS), 0).max_tokens("structural_tag")
        assert found.usage.completion_tokens <= K * bound


def test_the_greedy_critique_may_think_too(service: Running) -> None:
    texts = set()
    for outcome in (0.4, 0.5):  # judged twice
        found = credited(
            service,
            outcome,
            "thinking",
            thinking_tokens=BUDGET,
            method="greedy",
            n=1,
            critique_style="brief",
        )
        [critique] = found.critiques or []
        assert critique.valid and 0 < critique.thinking_tokens <= BUDGET
        texts.add((critique.thinking, critique.text))
    assert len(texts) == 1, "both have the same thought and verdict"


def test_seeded_thoughts_differ_within_a_rollout(service: Running) -> None:
    found = credited(
        service, 0.6, "thinking", thinking_tokens=BUDGET, seed=3, critique_style="verdict"
    )
    assert len({critique.thinking for critique in found.critiques or []}) > 1
