"""Merged steps tile the text, are as few and as even as promised, and respect thoughts and blocks."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from capo_service.core.alignment import from_offsets, token_spans
from capo_wire.segment_merging import merged
from capo_wire.segmentation import Span, blank_line, newline, sentence
from capo_wire.special_text import thought_boundaries
from capo_wire.text_blocks import blocks
from kit import owner_by_definition, spread

PIECES = st.sampled_from(
    [
        "So 12",
        "\n\n",
        "\n",
        " ",
        "。",
        ". ",
        "x" * 30,
        "<think>",
        "</think>",
        "[/THINK]",
        "```",
        "```py",
        "~~~",
        "$$",
        "\\[",
        "\\]",
        "\\\\[",
        "\\begin{align}",
        "\\end{align}",
        "\\begin{cases}",
        "\r\n\r\n",
        "\u3000",
        "`</think>`",
        "assistantfinal",
    ]
)
TEXTS = st.lists(PIECES | st.text(max_size=4), max_size=60).map("".join)
CUTS = st.sampled_from([blank_line, newline, sentence])
LIMITS = st.none() | st.integers(1, 40)


def length(text: str, span: Span) -> int:
    return len(text[slice(*span)].strip())


@settings(max_examples=600, deadline=None)
@given(TEXTS, CUTS, LIMITS, LIMITS)
def test_merged_steps_tile_the_text_in_order(text, cut, most, least) -> None:  # type: ignore[no-untyped-def]
    spans = cut(text)
    found = merged(text, spans, most, least)
    assert bool(found) == bool(text.strip())
    if found:
        assert found[0][0] == 0 and found[-1][1] == len(text)
        assert all(a[1] == b[0] for a, b in pairwise(found))
        assert all(text[start:end].strip() for start, end in found)
        edges = {start for start, _ in spans} | set(thought_boundaries(text))
        assert {start for start, _ in found} <= edges
    assert merged(text, found, most, least) == found


@settings(max_examples=600, deadline=None)
@given(TEXTS, CUTS, st.integers(1, 40), LIMITS)
def test_there_are_at_most_so_many_steps_and_the_last_thought_is_apart(  # type: ignore[no-untyped-def]
    text, cut, most, least
) -> None:
    boundaries = thought_boundaries(text)
    found = merged(text, cut(text), most, least)
    assert len(found) <= max(most, 2 if boundaries else 1)
    starts = {start for start, _ in found}
    assert set(boundaries[-1:]) <= starts
    if len(boundaries) < most:
        assert set(boundaries) <= starts


@settings(max_examples=600, deadline=None)
@given(TEXTS, CUTS, st.integers(1, 40))
def test_no_step_is_shorter_than_asked_but_a_whole_section(text, cut, least) -> None:  # type: ignore[no-untyped-def]
    found = merged(text, cut(text), None, least)
    sections = set(pairwise([0, *thought_boundaries(text), len(text)]))
    assert all(length(text, span) >= least or span in sections for span in found)


@settings(max_examples=600, deadline=None)
@given(TEXTS, CUTS, st.integers(1, 40))
def test_blocks_are_never_cut(text, cut, most) -> None:  # type: ignore[no-untyped-def]
    boundaries = thought_boundaries(text)
    if len(boundaries) >= most:
        boundaries = boundaries[-1:]
    inner = {start for start, _ in merged(text, cut(text), most)}
    for start, end in pairwise([0, *boundaries, len(text)]):
        for first, last in blocks(text[start:end]):
            assert not any(start + first < position < start + last for position in inner)


@settings(max_examples=600, deadline=None)
@given(st.lists(st.integers(1, 60), min_size=1, max_size=80), st.integers(1, 30))
def test_a_joined_step_is_at_most_about_twice_the_mean(lengths: list[int], most: int) -> None:
    text = "\n\n".join("x" * each for each in lengths)
    spans = blank_line(text)
    found = merged(text, spans, most)
    joined = [span for span in found if span not in spans]
    assert len(found) == min(most, len(lengths))
    for span in joined:
        assert length(text, span) <= 2 * (len(text) / len(found))


@settings(max_examples=300, deadline=None)
@given(st.lists(st.text(max_size=3) | PIECES, max_size=60), st.integers(1, 10))
def test_every_token_keeps_its_place(tokens: list[str], most: int) -> None:
    text = "".join(tokens)
    ends = [len("".join(tokens[: i + 1])) for i in range(len(tokens))]
    offsets = list(zip([0, *ends], ends, strict=False))
    found = merged(text, newline(text), most)
    if found and offsets:
        owners = spread(token_spans(from_offsets(offsets, text), found))
        assert len(owners) == len(tokens)
        assert owners == owner_by_definition(text, offsets, found)
