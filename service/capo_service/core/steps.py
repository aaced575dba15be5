"""Text -> step spans: the segmenters of `capo_wire.segmentation`, and steps that the client gives.

Spans tile the text as described there. Every function takes linear time for any text and pattern.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import re2

from capo_service.core.errors import InputError
from capo_wire.segment_merging import merged
from capo_wire.segmentation import Span, blank_line, newline, sentence, tile

__all__ = ["Span", "blank_line", "by_pattern", "given", "merged", "newline", "sentence", "texts"]


def texts(text: str, spans: Sequence[Span]) -> list[str]:
    """The texts of the steps."""
    return [text[start:end] for start, end in spans]


def by_pattern(text: str, pattern: str, cut: Literal["before", "after"] = "before") -> list[Span]:
    """Split before (or after) every match of an RE2 pattern (linear time, no look-around).

    Raises:
        InputError: the pattern is not valid RE2.
    """
    options = re2.Options()
    options.log_errors = False
    options.max_mem = 1 << 20
    try:
        compiled = re2.compile(pattern, options)
    except re2.error as error:
        reason = error.args[0].decode() if isinstance(error.args[0], bytes) else str(error)
        raise InputError(
            f"segment.pattern is not a valid RE2 pattern: {reason}", field="segment.pattern"
        ) from None
    matches = compiled.finditer(text)
    return tile(text, (m.start() if cut == "before" else m.end() for m in matches))


def given(
    text: str, spans: Sequence[Span], within: Span | None = None, first: int = 0
) -> list[Span]:
    """Check the client's own spans; white space between them is added to the step before.

    Args:
        text: the response.
        spans: of its steps.
        within: the part of the text that they are the steps of; None: all of it.
        first: the number of the first of these steps, for messages.

    Raises:
        InputError: a span is outside the text, overlaps the one before, or has only white space;
            or other text is in no span (the judge would never see it).
    """
    begin, size = within or (0, len(text))
    reached = begin
    for index, (start, end) in enumerate(spans, first):
        field = f"steps[{index}]"
        check_span(text, (start, end), reached, field, "step")
        if text[reached:start].strip():
            raise _outside(reached, start, field)
        if not text[start:end].strip():
            raise InputError(f"{field} has only blank text", field=field)
        reached = end
    if text[reached:size].strip():
        raise _outside(reached, size, "steps")
    return tile(text, [start for start, _ in spans[1:]], (begin, size))


def check_span(text: str, span: Span, reached: int, field: str, what: str) -> None:
    """Check one of the client's spans.

    Args:
        text: the response.
        span: of it.
        reached: the end of the span before.
        field: its place in the rollout, for messages.
        what: it is the span of.

    Raises:
        InputError: it is empty, outside the text, or overlaps the span before.
    """
    start, end = span
    if not 0 <= start < end <= len(text):
        raise InputError(
            f"{field} = [{start}, {end}] is not a span of the response, which has "
            f"{len(text)} characters",
            field=field,
        )
    if start < reached:
        raise InputError(
            f"{field} starts at {start}, before the {what} before it ends ({reached})",
            field=field,
        )


def _outside(start: int, end: int, field: str) -> InputError:
    return InputError(
        f"characters {start} to {end} are not blank and are in no step: put them in a step, or "
        "mark what the policy did not write (a tool's output) by response_mask or observations",
        field=field,
    )
