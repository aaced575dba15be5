"""Finds the windows of a rollout that exceeds the judge: large ones of about equal length.

The length of a step in tokens is estimated from its text; whether a window fits is measured.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from capo_service.core.errors import InputError
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

MakeTask = Callable[[Sequence[str], Surroundings], JudgeTask]


@dataclass(frozen=True, slots=True)
class Window:
    """Consecutive steps that are judged together, and the judge's task for them."""

    bounds: Bounds
    around: Surroundings
    task: JudgeTask


def find_windows(
    texts: Sequence[str], make: MakeTask, most: int, *, split: bool, shows_earlier: bool
) -> list[Window]:
    """The windows of a rollout; one, if the judge can judge it as a whole.

    Args:
        texts: the texts of its steps.
        make: makes the task for some of them.
        most: maximum steps of a window (setting max_steps).
        split: whether there may be more than one window (setting windows).
        shows_earlier: whether the judge's template shows the steps before a window.

    Raises:
        InputError: it exceeds the judge and must not be split, or one step alone exceeds it.
    """
    template = (
        "in windows it can be judged only if the judge's template shows the variable `earlier`"
    )
    if len(texts) <= most:
        try:
            return [Window((0, len(texts)), WHOLE, make(texts, WHOLE))]
        except ContextExceededError as error:
            if len(texts) == 1 or error.field != "response":
                raise
            if not split:
                raise _explained(error, "or set windows to judge it in parts") from None
            if not shows_earlier:
                raise _explained(error, template) from None
    elif not shows_earlier:
        raise InputError(
            f"response has {len(texts)} steps; this service accepts {most} (setting max_steps); "
            + template,
            field="response",
            problem="too-large",
        )
    return _fit(texts, make, most)


def _explained(error: InputError, change: str) -> InputError:
    return InputError(f"{error.detail}; {change}", field=error.field, problem=error.problem)


def _fit(texts: Sequence[str], make: MakeTask, most: int) -> list[Window]:
    fixed = make(["x"], Surroundings(continues=True)).needed  # for all but the steps
    lengths = [length(text) + _TAGS for text in texts]
    size = sum(lengths)
    for _ in range(_ATTEMPTS):
        found: list[Window] = []
        fitting: list[int] = []  # sizes that would have been right
        for bounds in even_windows(lengths, size, most):
            around = surroundings(texts, bounds, _earlier(size))
            try:
                found.append(_window(texts, bounds, around, make))
            except ContextExceededError as error:
                steps = sum(lengths[slice(*bounds)])
                shown = sum(length(step.text) for step in around.earlier)
                share = (error.context - fixed) / (error.needed - fixed)
                fitting.append(_without_earlier((steps + shown) * share * _MARGIN, steps))
        if not fitting:
            return found
        size = min(fitting)
    raise InputError(
        f"no windows of the response's {len(texts)} steps were found that the judge's context "
        "holds; shorten the rollout or use a judge with a longer context",
        field="response",
        problem="context-exceeded",
    )


def _window(texts: Sequence[str], bounds: Bounds, around: Surroundings, make: MakeTask) -> Window:
    first, end = bounds
    try:
        return Window(bounds, around, make(texts[first:end], around))
    except ContextExceededError:
        if end - first > 1:
            raise
    # One long step may fit without the steps before it.
    around = surroundings(texts, bounds, 0)
    try:
        return Window(bounds, around, make(texts[first:end], around))
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
