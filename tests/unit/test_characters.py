"""What is counted of a rollout's characters is what plain definitions give."""

from __future__ import annotations

import re
from collections import Counter
from itertools import groupby

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from capo_service.core.characters import (
    STEP_CONTENT,
    count,
    has_content,
    is_invisible,
    longest_run,
    scripts,
)
from capo_wire import special_text

TEXTS = (
    st.text(max_size=200)
    | st.text(st.characters(max_codepoint=127), max_size=200)
    | st.text("a0_ ½²٣Ⅷ解\u200b\n", max_size=200)
)


@settings(max_examples=500, deadline=None)
@given(text=TEXTS)
def test_kinds_of_characters(text: str) -> None:
    plain, counted = Counter(text), count(text)
    assert sum(counted.values()) == len(text)
    content = sum(n for c, n in plain.items() if c.isalnum())
    assert sum(n for c, n in counted.items() if c.isalnum()) == content
    assert has_content(text) == (content >= STEP_CONTENT)
    assert scripts(counted) == scripts(plain)
    assert list(scripts(counted)) == list(scripts(plain)), "as flags name them"
    hidden = {c: n for c, n in plain.items() if is_invisible(c)}
    assert {c: n for c, n in counted.items() if is_invisible(c)} == hidden


def test_many_different_characters() -> None:
    text = "".join(map(chr, range(0x4E00, 0x4E00 + 500))) * 2
    assert count(text) == Counter(text)


@pytest.mark.parametrize("least", [2, 3, 7, 200])
@settings(max_examples=200, deadline=None)
@given(runs=st.lists(st.tuples(st.sampled_from("ab\n"), st.integers(1, 450)), max_size=6))
def test_longest_runs(least: int, runs: list[tuple[str, int]]) -> None:
    text = "".join(character * length for character, length in runs)
    longest = max((len(list(group)) for _, group in groupby(text)), default=0)
    assert longest_run(text, least) == (longest if longest >= least else 0)


MARKERS = st.from_regex(re.compile(special_text._MARKER.pattern, re.IGNORECASE))


@settings(max_examples=500, deadline=None)
@given(text=st.lists(MARKERS | st.text(max_size=5), max_size=3).map("".join))
def test_the_words_of_markers_are_in_all_of_them(text: str) -> None:
    assert special_text.without_thought_markers(text) == special_text._MARKER.sub("\n", text)
