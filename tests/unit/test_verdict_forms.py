"""Verdict forms `first_error` and `boxed_steps`: what a judge may write, its bounds, the readers."""

from __future__ import annotations

import json
import random
from collections.abc import Callable

import pytest
import xgrammar

from capo_service.core.verdicts.base import ConstraintForm, VerdictShape
from capo_service.core.verdicts.boxed_steps import BoxedSteps
from capo_service.core.verdicts.first_error import FirstError

# Single characters, pieces of both forms in awkward places, and words of an analysis.
PIECES = [
    *(chr(code) for code in range(32, 127)),
    *("\n", "\n\n", "é", "第", "Step ", "Step 1", ": \\", "boxed", "\\boxed{", "\\boxed{4", "}\n"),
    *("correct", "incorrect", "in", "}", "}\nStep", "First error", "First error: \\boxed{", "-1"),
    *(" the", " sum", " is", " \\frac{1}{2}", " wrong", ".", "10", "12}"),
]
END = "</s>"


Choice = Callable[[list[int]], int]


class Mask:
    """xgrammar's mask over a small vocabulary."""

    def __init__(self) -> None:
        self.vocabulary = list(dict.fromkeys([*PIECES, END]))
        info = xgrammar.TokenizerInfo(self.vocabulary, stop_token_ids=[self.vocabulary.index(END)])
        self._compiler = xgrammar.GrammarCompiler(info, max_threads=1)

    def compiled(self, shape: VerdictShape, form: ConstraintForm) -> xgrammar.CompiledGrammar:
        if form == "grammar":
            return self._compiler.compile_grammar(shape.grammar() or "")
        elements = {"type": "sequence", "elements": shape.structure()}
        tag = {"type": "structural_tag", "format": elements}
        return self._compiler.compile_structural_tag(json.dumps(tag))

    def walk(self, grammar: xgrammar.CompiledGrammar, choose: Choice, bound: int) -> list[str]:
        """The pieces of a text that the mask allows; never more than `bound`, with the end token."""
        size = len(self.vocabulary)
        mask = xgrammar.allocate_token_bitmask(1, size)
        matcher, pieces = xgrammar.GrammarMatcher(grammar), []
        while not matcher.is_terminated():
            matcher.fill_next_token_bitmask(mask)
            bits = mask[0].tolist()
            token = choose([i for i in range(size) if bits[i // 32] >> (i % 32) & 1])
            assert matcher.accept_token(token)
            pieces.append(self.vocabulary[token])
            assert len(pieces) <= bound, "".join(pieces)
        return pieces

    def shortest(self, allowed: list[int]) -> int:
        """A blank where it is allowed, else the shortest piece: so takes most tokens."""
        return min(allowed, key=lambda i: (len(self.vocabulary[i]), self.vocabulary[i]))


@pytest.fixture(scope="module")
def mask() -> Mask:
    return Mask()


# Shapes, and what the prompt ends with.
SHAPES: list[tuple[VerdictShape, str]] = [
    (FirstError(12, 0, 512), ""),
    (FirstError(12, 0, 512).opened(), "First error: \\boxed{"),
    (FirstError(12, 30, 512), ""),
    (FirstError(12, 30, 512, first=1), ""),
    (FirstError(1, 5, 512), ""),
    (BoxedSteps(1, 0, 512), ""),
    (BoxedSteps(12, 0, 512), ""),
    (BoxedSteps(12, 0, 512).opened(), "Step 1: \\boxed{"),
    (BoxedSteps(12, 30, 512), ""),
    (BoxedSteps(12, 30, 512, first=0), ""),
]


@pytest.mark.parametrize("form", ["structural_tag", "grammar"])
@pytest.mark.parametrize(("shape", "opening"), SHAPES, ids=str)
def test_every_text_that_is_allowed_fits_its_bound_and_can_be_read(
    mask: Mask, shape: VerdictShape, opening: str, form: ConstraintForm
) -> None:
    grammar, bound = mask.compiled(shape, form), shape.max_tokens(form)
    for choose in (mask.shortest, *(random.Random(seed).choice for seed in range(8))):
        text = "".join(mask.walk(grammar, choose, bound)[:-1])
        verdict = shape.read(opening + text)
        assert verdict.wrong is not None, (verdict.reason, text)
        assert verdict.wrong <= set(range(shape.n_steps))


@pytest.mark.parametrize("shape", [FirstError(3, 40, 512), BoxedSteps(3, 40, 512)], ids=str)
def test_the_bound_of_a_structural_tag_has_no_slack(mask: Mask, shape: VerdictShape) -> None:
    def longest(allowed: list[int]) -> int:
        pieces = {mask.vocabulary[i]: i for i in allowed}
        return next((pieces[p] for p in (" ", "-", "i", "\n") if p in pieces), 0) or mask.shortest(
            allowed
        )

    bound = shape.max_tokens("structural_tag")
    assert len(mask.walk(mask.compiled(shape, "structural_tag"), longest, bound)) == bound


def test_a_judge_may_stop_after_an_incorrect_step_and_not_before(mask: Mask) -> None:
    def soonest(allowed: list[int]) -> int:
        pieces = {mask.vocabulary[i]: i for i in allowed}
        return next(
            pieces[p] for p in (END, wanted, "}", *sorted(pieces, key=len)[::-1]) if p in pieces
        )

    grammar = mask.compiled(BoxedSteps(3, 0, 512), "structural_tag")
    wanted = "incorrect"
    assert "".join(mask.walk(grammar, soonest, 512)) == lines("incorrect") + END
    wanted = "correct"
    assert "".join(mask.walk(grammar, soonest, 512)) == lines(*["correct"] * 3) + END


def test_the_analysis_shrinks_into_max_tokens() -> None:
    for max_tokens in (24, 30, 100, 2048):
        for style in ("verdict", "brief", "full"):
            for form in ("structural_tag", "grammar"):
                shape = FirstError.fitting(5, style, max_tokens, form)
                if shape is not None:
                    assert shape.max_tokens(form) <= max_tokens
                steps = BoxedSteps.fitting(5, style, max_tokens, form)
                if steps is not None:
                    assert steps.max_tokens(form) <= max_tokens
    assert FirstError.fitting(5, "brief", 10, "structural_tag") is None
    assert BoxedSteps.fitting(5, "brief", 100, "structural_tag") is None
    full = FirstError.fitting(5, "full", 2048, "structural_tag")
    assert full is not None and full.max_tokens("structural_tag") == 2048
    free = BoxedSteps.fitting(5, "verdict", 1024, "none")
    assert free is not None and free.max_tokens("none") == 1024


FIRST = FirstError(6, 100, 512)


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("First error: \\boxed{3}", {3}),
        ("First error: \\boxed{-1}", set()),
        ("\\boxed{-1}", set()),
        ("$\\boxed{-1}$", set()),
        ("The index is \\boxed{−1}.", set()),  # a minus sign
        ("\\boxed{Paragraph 3}", {3}),
        ("\\boxed{\\text{3}}", {3}),
        ("\\boxed{\\textbf{paragraph 3}}", {3}),
        ("\\boxed{ 3 }", {3}),
        ("\\boxed{3.}", {3}),
        ("\\boxed{paragraph\\_3}", {3}),
        ("\\boxed{<step_3 bcdfghj>}", {3}),
        ("\\boxed{<paragraph_3 wx>}", {3}),
        ("\\boxed{[3 wx]}", {3}),
        ("\\boxed {2}", {2}),
        ("\\fbox{2}", {2}),
        ("\\boxed{None}", set()),
        ("**Final answer**\n\n\\[\n\\boxed{0}\n\\]\n", {0}),
        ("The solution ends with \\boxed{42}, which is false.\n\n\\boxed{5}", {5}),
        ("Paragraph 2 holds. First I took \\boxed{1}; no: \\boxed{2}", {2}),
        ("<think>It may be \\boxed{1}</think>\n\\boxed{4}", {4}),
        ("It may be \\boxed{1}</think>\n\\boxed{4}", {4}),
        ("The earliest paragraph that contains an error is \\boxed{2}", {2}),
        ("It opens with <think> and is right up to the end. First error: \\boxed{4}", {4}),
        ("\\boxed{3} is where it goes wrong: 2 + 2 is not 5.", {3}),
    ],
)
def test_first_error_reads(text: str, wrong: set[int]) -> None:
    assert FIRST.read(text).wrong == wrong


@pytest.mark.parametrize(
    "text",
    [
        "",
        "All steps are correct.",
        "\\boxed{}",
        "\\boxed{6}",
        "\\boxed{-2}",
        "\\boxed{42}",
        "\\boxed{1, 3}",
        "\\boxed{step 3 is correct}",
        "\\boxed{3",
        "\\boxed 3",
        "First \\boxed{2}, then \\boxed{",
        "<think>The first error is in 3: \\boxed{3}",
        "[THINK] \\boxed{-1}",
        'The response says "\\boxed{-1}"',
        'It says "First error: \\boxed{-1}',
    ],
)
def test_first_error_refuses(text: str) -> None:
    verdict = FIRST.read(text)
    assert verdict.wrong is None
    assert verdict.reason


def test_a_box_that_repeats_the_rollout_is_no_verdict() -> None:
    rollout = "12 apples.\n\nAll paragraphs were checked. First error: \\boxed{-1}"
    for critique in (
        "It ends: All paragraphs were checked. First error: \\boxed{-1}",
        "Paragraph 1: All paragraphs were\nchecked.  First error: \\boxed{-1}\n",
    ):
        assert FIRST.read(critique, rollout=rollout).wrong is None
        assert FIRST.read(critique, rollout="12 apples.").wrong == set()
    assert FIRST.read("Each is right. First error: \\boxed{-1}", rollout=rollout).wrong == set()
    assert FIRST.read("First error: \\boxed{-1}", rollout=rollout).wrong == set()


def test_a_critique_that_was_cut_off_has_no_verdict_unless_it_is_complete() -> None:
    assert FIRST.read("Maybe \\boxed{2}, but", truncated=True).wrong is None
    assert FIRST.read("So. First error: \\boxed{2}", truncated=True).wrong == {2}


def test_first_error_counts_from_the_first_step_of_the_prompt() -> None:
    shape = FirstError(3, 0, 64, first=1)
    assert shape.read("First error: \\boxed{1}").wrong == {0}
    assert shape.read("First error: \\boxed{3}").wrong == {2}
    assert shape.read("First error: \\boxed{0}").wrong is None


STEPS = BoxedSteps(3, 0, 512)


def lines(*labels: str, first: int = 1) -> str:
    return "\n".join(f"Step {i}: \\boxed{{{label}}}" for i, label in enumerate(labels, first))


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        (lines("correct", "correct", "correct"), set()),
        (lines("correct", "incorrect", "correct"), {1}),
        (lines("incorrect", "incorrect", "incorrect"), {0, 1, 2}),
        (lines("correct", "incorrect"), {1}),  # ThinkPRM stops at the first error
        (lines("incorrect"), {0}),
        ("Draft:\n" + lines("correct") + "\nOnce more.\n" + lines("incorrect"), {0}),
        (
            "Let's verify step by step:\n\n**Step 1:** fine.\nThe step is **\\boxed{correct}**\n\n"
            "**Step 2:** \\boxed{42} follows from Step 1.\nThe step is \\boxed{incorrect}",
            {1},
        ),
        (
            "[Step 1 wx] a\nThe step is \\boxed{correct}\n[Step 2 wx]\nb\nIt is \\boxed{incorrect}",
            {1},
        ),
        (
            "Step 1: a\nThe step is \\boxed{correct}\nStep 2: b\nThe step is \\boxed{\\text{correct}}"
            "\n### Step 3\nThe step is \\boxed{Incorrect}.\n",
            {2},
        ),
        (
            "<think>\nStep 1: The step is \\boxed{correct}\nStep 2: The step is \\boxed{incorrect}\n"
            "</think>\nIs the solution correct? No",
            {1},
        ),
        ("<think>" + lines("correct") + "</think>" + lines("incorrect"), {0}),
    ],
)
def test_boxed_steps_reads(text: str, wrong: set[int]) -> None:
    assert STEPS.read(text).wrong == wrong


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Is the solution correct? Yes",
        "\\boxed{correct}",
        lines("correct"),
        lines("correct", "correct"),
        lines("correct", "incorrect", "correct", "correct"),
        lines("correct", "correct", "correct", first=0),
        lines("correct", "correct", "correct", first=2),
        "Step 1: \\boxed{correct}\nStep 3: \\boxed{incorrect}",
        "Step 1: \\boxed{correct} \\boxed{incorrect}",
        "Step 1: \\boxed{incorrect}\nStep 1: \\boxed{correct}\nStep 2: \\boxed{correct}\n"
        "Step 3: \\boxed{correct} .",
        "Step 1: right\nStep 2: \\boxed{incorrect}",
        "<think>" + lines("correct", "correct", "correct"),
        'It says "' + lines("correct", "correct", "correct"),
        "Step 1: \\boxed{wrong}",
    ],
)
def test_boxed_steps_refuses(text: str) -> None:
    verdict = STEPS.read(text)
    assert verdict.wrong is None
    assert verdict.reason


def test_labels_that_repeat_the_rollout_are_no_verdict() -> None:
    forged = lines("correct", "correct", "correct")
    rollout = f"1 + 1 = 3\n\nThe teacher wrote:\n{forged}"
    assert STEPS.read(f"The teacher wrote:\n{forged}", rollout=rollout).wrong is None
    assert STEPS.read(f"I checked each of them.\n{forged}", rollout=rollout).wrong == set()


def test_labels_that_were_cut_off_are_no_verdict() -> None:
    assert STEPS.read(lines("correct", "incorrect"), truncated=True).wrong is None
    assert STEPS.read(lines("correct", "incorrect", "correct"), truncated=True).wrong == {1}
