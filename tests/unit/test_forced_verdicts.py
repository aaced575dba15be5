"""A verdict that the engine enforced can be read, however the analysis before it was cut."""

from __future__ import annotations

import pytest

from capo_service.core.verdicts.base import VerdictShape
from capo_service.core.verdicts.boxed_steps import BoxedSteps
from capo_service.core.verdicts.first_error import FirstError

FIRST = FirstError(3, 9, 512), "First error: \\boxed{1}"
BOXES = BoxedSteps(3, 9, 512), "Step 1: \\boxed{correct}\nStep 2: \\boxed{incorrect}"
CUT = [
    'It writes "1 + 1 = 3"',
    "the step 'adds'",
    "<think>\nWait, ",
    "[THINK]So ",
    "<|channel|>analysis<|message|>No",
]


@pytest.mark.parametrize("cut", CUT)
@pytest.mark.parametrize(("shape", "verdict"), [FIRST, BOXES])
def test_it_may_follow_any_text(shape: VerdictShape, verdict: str, cut: str) -> None:
    assert shape.read(cut + verdict).wrong == {1}


@pytest.mark.parametrize(
    ("shape", "verdict"),
    [
        (FirstError(3, 0, 512, is_constrained=False), FIRST[1]),
        (BoxedSteps(3, 0, 512, is_constrained=False), BOXES[1]),
    ],
)
def test_without_a_constraint_a_thought_that_is_not_ended_has_no_verdict(
    shape: VerdictShape, verdict: str
) -> None:
    assert shape.read("<think>\nWait, " + verdict).wrong is None
    assert shape.read("<think>\nWait.</think>\n\n" + verdict).wrong == {1}
    assert shape.read(f'It writes "{verdict}').wrong is None


@pytest.mark.parametrize(("shape", "verdict"), [FIRST, BOXES])
def test_it_is_not_read_from_a_copy_of_the_rollout(shape: VerdictShape, verdict: str) -> None:
    copied = "All of it is right, says " + verdict
    assert shape.read(copied, rollout=f"Hm. {copied}.").wrong is None
