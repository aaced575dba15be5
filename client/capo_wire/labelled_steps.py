"""Labelled steps as one text: what `capo eval` and known-answer probes send to the judge."""

from __future__ import annotations

from collections.abc import Sequence

from capo_wire.segmentation import Span

_SEPARATOR = "\n\n"


def joined(
    steps: Sequence[str], observations: Sequence[str | None] = ()
) -> tuple[str, list[Span], list[Span]]:
    """The text, the span of each step, and the spans that the policy did not write.

    Args:
        steps: the texts of the steps, unchanged.
        observations: for each step, what a tool or an environment wrote after it; None where there
            is nothing. Empty: the policy wrote all of it.

    Raises:
        ValueError: there are more or fewer observations than steps.
    """
    if observations and len(observations) != len(steps):
        raise ValueError(
            f"observations has {len(observations)} items for {len(steps)} steps: write one for "
            "each step, null where no observation follows"
        )
    parts: list[str] = []
    spans: list[Span] = []
    observed: list[Span] = []
    length = 0
    for index, step in enumerate(steps):
        spans.append((length, length + len(step)))
        parts.append(step)
        length += len(step)
        is_last = index == len(steps) - 1
        between = "" if is_last else _SEPARATOR
        if observations and (observation := observations[index]):
            between = f"{_SEPARATOR}{observation}{between}"
            observed.append((length, length + len(between)))
        parts.append(between)
        length += len(between)
    return "".join(parts), spans, observed
