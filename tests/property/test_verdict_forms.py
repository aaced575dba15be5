"""Verdict forms with boxes: read as exactly what they say, or refused."""

from __future__ import annotations

from hypothesis import example, given, settings
from hypothesis import strategies as st

from capo_service.core.verdicts.boxed_steps import BoxedSteps
from capo_service.core.verdicts.first_error import FirstError

N_STEPS = 5
FRAGMENTS = (
    *("\\boxed{", "}", "{", "\\boxed", "\\fbox{", "\\text{", "correct", "incorrect", "-1", "none"),
    *("Step ", "Step 1: \\boxed{correct}\n", "Step 2: \\boxed{incorrect}\n", "**Step 3:** ", "\n"),
    *(
        "First error: \\boxed{",
        "First error: ",
        "0",
        "3",
        "7",
        " ",
        '"',
        "`",
        "<think>",
        "</think>",
    ),
    *("[THINK]", "<|channel|>analysis<|message|>", "Paragraph ", "$", "\\", "é", "\x00", "\ud800"),
)
TEXTS = st.lists(st.sampled_from(FRAGMENTS), max_size=30).map("".join)
SHAPES = st.sampled_from(
    [
        FirstError(N_STEPS, 10, 512),
        FirstError(N_STEPS, 0, 512, first=1),
        BoxedSteps(N_STEPS, 10, 512),
        BoxedSteps(N_STEPS, 0, 512, first=0),
    ]
)
PROSE = st.text("abc .,\n1+=é", max_size=60)


@given(shape=SHAPES, text=TEXTS, rollout=TEXTS, truncated=st.booleans())
@settings(max_examples=400)
@example(FirstError(N_STEPS, 10, 512), "\\boxed{" * 300, "", False)
@example(BoxedSteps(N_STEPS, 10, 512), "Step 1" * 300, "", False)
def test_any_text_is_read_or_refused_with_a_reason(
    shape: FirstError | BoxedSteps, text: str, rollout: str, truncated: bool
) -> None:
    verdict = shape.read(text, truncated=truncated, rollout=rollout)
    if verdict.wrong is None:
        assert verdict.reason
        return
    assert verdict.wrong <= set(range(N_STEPS))
    if isinstance(shape, FirstError):
        assert len(verdict.wrong) <= 1
        assert verdict.wrong or "-1" in text or "none" in text
    else:
        assert text.count("correct") >= (N_STEPS if not verdict.wrong else 1)


@given(
    first=st.integers(0, 1),
    step=st.integers(-1, N_STEPS - 1),
    analysis=PROSE,
    box=st.sampled_from(["\\boxed{%s}", "$\\boxed{\\text{%s}}$.", "First error: \\boxed{%s}"]),
    end=st.sampled_from(["", "\n", " \n\n"]),
)
def test_the_number_of_the_first_error_is_read_exactly(
    first: int, step: int, analysis: str, box: str, end: str
) -> None:
    number = step + first if step >= 0 else -1
    text = analysis + "\n" + box % number + end
    assert FirstError(N_STEPS, 10, 512, first).read(text).wrong == ({step} if step >= 0 else set())


@given(
    labels=st.lists(st.booleans(), min_size=1, max_size=N_STEPS + 2),
    prose=st.lists(PROSE, min_size=N_STEPS + 2, max_size=N_STEPS + 2),
    fixed=st.booleans(),
    first=st.integers(0, 1),
)
def test_labels_are_read_exactly_or_refused(
    labels: list[bool], prose: list[str], fixed: bool, first: int
) -> None:
    lines = [
        f"Step {i}:{'' if fixed else text} \\boxed{{{'incorrect' if wrong else 'correct'}}}"
        for i, (wrong, text) in enumerate(zip(labels, prose, strict=False), first)
    ]
    verdict = BoxedSteps(N_STEPS, 0, 512, first).read("\n".join(lines))
    complete = len(labels) == N_STEPS or (len(labels) < N_STEPS and labels[-1])
    expected = {i for i, wrong in enumerate(labels) if wrong}
    assert verdict.wrong == (expected if complete else None)
