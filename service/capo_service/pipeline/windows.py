"""Finds the windows of a rollout that exceeds the judge: large ones of about equal length.

The length of a step in tokens is estimated from its text; whether a window fits is measured.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from capo_service.core.errors import InputError
from capo_service.core.observations import ShownStep
from capo_service.core.windows import (
    WHOLE,
    Bounds,
    Surroundings,
    even_windows,
    length,
    surroundings,
)
from capo_service.pipeline.errors import ContextExceededError
from capo_service.pipeline.judge_prompt import JudgeTask

_TAGS = 40  # bytes around each step, roughly
_EARLIER_PART = 5  # earlier steps take at most a fifth of a window ...
_MOST_EARLIER = 8_000  # ... and so many bytes
_MARGIN = 0.98  # since texts are not all equally long in tokens
_LEAST_CHANGE = 0.9
_ATTEMPTS = 24

MakeTask = Callable[[Sequence[ShownStep], Surroundings], JudgeTask]


@dataclass(frozen=True, slots=True)
class Window:
    """Consecutive steps that are judged together, and the judge's task for them."""

    bounds: Bounds
    around: Surroundings
    task: JudgeTask


def find_windows(
    steps: Sequence[ShownStep],
    make: MakeTask,
    most: int,
    *,
    split: bool,
    shows_earlier: bool,
    before: str | None = None,
) -> list[Window]:
    """The windows of a rollout; one, if the judge can judge it as a whole.

    Args:
        steps: its steps.
        make: makes the task for some of them.
        most: maximum steps of a window (setting max_steps).
        split: whether there may be more than one window (setting windows).
        shows_earlier: whether the judge's template shows the steps before a window.
        before: what was observed before the first step.

    Raises:
        InputError: it exceeds the judge and must not be split, or one step alone exceeds it.
    """
    template = (
        "in windows it can be judged only if the judge's template shows the variable `earlier`"
    )
    if len(steps) <= most:
        whole = WHOLE if before is None else Surroundings(before=before)
        try:
            return [Window((0, len(steps)), whole, make(steps, whole))]
        except ContextExceededError as error:
            if len(steps) == 1 or error.field != "response":
                raise
            if not split:
                raise _explained(error, "or set windows to judge it in parts") from None
            if not shows_earlier:
                raise _explained(error, template) from None
    elif not shows_earlier:
        raise InputError(
            f"response has {len(steps)} steps; this service accepts {most} (setting max_steps); "
            + template,
            field="response",
            problem="too-large",
        )
    return _fit(steps, make, most, before)


def _explained(error: InputError, change: str) -> InputError:
    return InputError(f"{error.detail}; {change}", field=error.field, problem=error.problem)


def _fit(steps: Sequence[ShownStep], make: MakeTask, most: int, before: str | None) -> list[Window]:
    fixed = make([ShownStep("x")], Surroundings(continues=True)).needed  # for all but the steps
    lengths = [length(step.text) + length(step.observation or "") + _TAGS for step in steps]
    size = sum(lengths)
    for _ in range(_ATTEMPTS):
        found: list[Window] = []
        fitting: list[int] = []  # sizes that would have been right
        for bounds in even_windows(lengths, size, most):
            around = surroundings(steps, bounds, _earlier(size), before)
            try:
                found.append(_window(steps, bounds, around, make))
            except ContextExceededError as error:
                judged = sum(lengths[slice(*bounds)])
                shown = sum(length(e.text) + length(e.observation) for e in around.earlier)
                shown += length(around.before or "")
                share = (error.context - fixed) / (error.needed - fixed)
                fitting.append(_without_earlier((judged + shown) * share * _MARGIN, judged))
        if not fitting:
            return found
        size = min(fitting)
    raise InputError(
        f"no windows of the response's {len(steps)} steps were found that the judge's context "
        "holds; shorten the rollout or use a judge with a longer context",
        field="response",
        problem="context-exceeded",
    )


def _window(
    steps: Sequence[ShownStep], bounds: Bounds, around: Surroundings, make: MakeTask
) -> Window:
    first, end = bounds
    try:
        return Window(bounds, around, make(steps[first:end], around))
    except ContextExceededError:
        if end - first > 1:
            raise
    # One long step may fit without the steps before it.
    around = replace(around, earlier=(), left_out=first)
    try:
        return Window(bounds, around, make(steps[first:end], around))
    except ContextExceededError as error:
        raise InputError(
            f"step {first} alone: {error.detail}", field=error.field, problem=error.problem
        ) from None


def _earlier(size: int) -> int:
    """The bytes for earlier steps beside `size` bytes of steps."""
    return min(_MOST_EARLIER, size // (_EARLIER_PART - 1))


def _without_earlier(size: float, before: int) -> int:
    """The bytes for steps, where those and the earlier steps have `size`; fewer than `before`."""
    steps = max(size * (1 - 1 / _EARLIER_PART), size - _MOST_EARLIER)
    return max(int(min(steps, before * _LEAST_CHANGE)), 1)
