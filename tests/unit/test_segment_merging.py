"""Short neighbouring steps become one step, by the rule in `capo_wire.segment_merging`."""

from __future__ import annotations

import pytest

from capo_wire.segment_merging import merged
from capo_wire.segmentation import blank_line, newline
from capo_wire.text_blocks import MOST_FORMULA, blocks


def texts(text: str, max_steps: int | None = None, min_characters: int | None = None) -> list[str]:
    spans = merged(text, blank_line(text), max_steps, min_characters)
    return [text[start:end].strip() for start, end in spans]


def test_the_two_that_are_shortest_together_are_joined_first() -> None:
    lengths = (50, 4, 3, 9, 2, 40)
    text = "\n\n".join("x" * length for length in lengths)

    def found(most: int) -> list[int]:
        return [step.count("x") for step in texts(text, most)]

    assert found(6) == [50, 4, 3, 9, 2, 40]
    assert found(5) == [50, 7, 9, 2, 40]
    assert found(4) == [50, 7, 11, 40]
    assert found(3) == [50, 18, 40]
    assert found(2) == [50, 58]
    assert found(1) == [108]


def test_of_equal_pairs_the_first_is_joined() -> None:
    assert texts("a\n\nb\n\nc\n\nd", 3) == ["a\n\nb", "c", "d"]
    assert texts("a\n\nb\n\nc\n\nd", 2) == ["a\n\nb", "c\n\nd"]


def test_a_short_step_joins_its_shorter_neighbour() -> None:
    text = "long long\n\nab\n\nlonger\n\n12345678"
    assert texts(text, min_characters=3) == ["long long", "ab\n\nlonger", "12345678"]
    assert texts(text, min_characters=9) == ["long long", "ab\n\nlonger\n\n12345678"]
    assert texts(text, min_characters=1000) == [text]


def test_white_space_makes_no_step_longer() -> None:
    text = "a" + "\n" * 500 + "bbbbb" + "\n\n" + "c" * 20
    assert len(texts(text, min_characters=6)) == 2


def test_without_limits_nothing_changes() -> None:
    text = "<think>a\n\n```\n\nb\n\n```</think>c"
    assert merged(text, newline(text)) == newline(text)
    assert merged("", [], 3, 3) == []


@pytest.mark.parametrize(
    ("opening", "closing"),
    [
        ("<think>", "</think>"),
        ("", "</think>"),  # the policy's chat template opened the thought
        ("[THINK]", "[/THINK]"),
        ("<seed:think>", "</seed:think>"),
        ("◁think▷", "◁/think▷"),
        (
            "<|channel|>analysis<|message|>",
            "<|end|><|start|>assistant<|channel|>final<|message|>",
        ),
    ],
)
@pytest.mark.parametrize("between", ["\n\n", "\n", " ", ""])
def test_a_thought_and_its_answer_are_never_one_step(
    opening: str, closing: str, between: str
) -> None:
    thought = opening + "a\n\nb\n\nc" + between + closing
    text = thought + between + "It is 5.\n\nSo 5."
    for most in (1, 2):
        assert texts(text, most, 1000) == [thought, "It is 5.\n\nSo 5."]
    assert len(texts(text, 3)) == 3


def test_markers_without_number_do_not_prevent_merging() -> None:
    text = "a</think>\n\n" * 50 + "b"
    found = texts(text, 10)
    assert len(found) == 10 and found[-1] == "b"
    assert len(texts(text, 51)) == 51


@pytest.mark.parametrize(
    "block",
    [
        "```python\na = 1\n\nb = 2\n```",
        "~~~\na\n\n```\n\nb\n~~~",
        "````\n```\n\n```\n````",
        "  ```\n  a\n\n  b\n  ```",
        "```\r\na\r\n\r\nb\r\n```\r",
        "$$\na\n\n= b\n$$",
        "\\[ a\n\n= b \\]",
        "\\begin{align*}\na &= b \\\\[2pt]\n\n&= c\n\\end{align*}",
        "\\begin{align}\n\\begin{cases}\na\n\n\\end{cases}\n\nb\n\\end{align}",
    ],
)
def test_code_and_formulas_are_kept_whole(block: str) -> None:
    text = f"before\n\n{block}\n\nafter\n\nend"
    assert texts(text, 100) == ["before", block.strip(), "after", "end"]
    spans = merged(text, newline(text), 100)
    assert block.strip() in [text[start:end].strip() for start, end in spans]
    assert texts(f"x {block} y\n\nz", 100) == [f"x {block} y", "z"] or block.lstrip()[0] in "`~"


@pytest.mark.parametrize(
    "opening",
    ["```", "```python", "~~~~", "$$", "\\[", "\\begin{align}", "```\na\n~~~", "````\na\n```"],
)
def test_what_is_never_closed_hides_nothing(opening: str) -> None:
    text = opening + "\n\n" + "\n\n".join(f"step {i}" for i in range(30))
    assert len(texts(text, 100)) >= 31
    assert len(texts(text, 8)) == 8


@pytest.mark.parametrize(
    "text",
    [
        "costs \\$$3\n\nand \\$$4",
        "`code ``` here\n\n```a``` b\n\nc",
        "\\\\[2pt]\n\nb \\]",
        "\\begin{proof}\n\na\n\n\\end{proof}",
        "$$5" + "x" * MOST_FORMULA + "\n\n$$7",
        "\\] a\n\n\\[",
        "\\end{align} a\n\n\\begin{align}",
    ],
)
def test_what_is_no_block_is_cut(text: str) -> None:
    assert blocks(text) == []


def test_a_lost_delimiter_spoils_one_formula_at_most_where_it_is_far_away() -> None:
    text = "$$" + "x" * MOST_FORMULA + "\n\n$$ a $$\n\n\\[ b \\[ c \\]"
    assert [text[start:end] for start, end in blocks(text)] == ["$$ a $$", "\\[ c \\]"]


def test_no_block_reaches_over_the_end_of_a_thought() -> None:
    text = "```\na\n\nb</think>c\n\nd\n```\n\ne"
    assert texts(text, 100) == ["```\na", "b</think>", "c", "d\n```", "e"]


def test_a_fence_after_one_that_is_never_closed_is_kept_whole() -> None:
    text = "````\n\nx\n\n```\na\n\nb\n```\n\ny"
    assert texts(text, 100) == ["````", "x", "```\na\n\nb\n```", "y"]
