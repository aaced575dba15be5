"""Equations are found, and called false only beyond doubt."""

from __future__ import annotations

import time
from fractions import Fraction
from itertools import product
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import capo_wire as wire
from capo_service.core.arithmetic import equations, false_equations
from capo_service.core.voting import VoteCount
from capo_service.engine.base import UNLIMITED
from capo_service.pipeline.critics import JudgeCritic, SymbolicCritic
from capo_service.pipeline.prepare import CritiquePolicy, Preparer
from kit_pipeline import credit, make_preparer
from kit_scripted import ScriptedEngine

TRUE = [
    "3 * (4 + 5) = 27",
    "So she has 4*3=<<4*3=12>>12 pens",
    "20% of 50 = 10",
    r"$\frac{1}{2} + \frac{1}{3} = \frac{5}{6}$",
    "$3.50 * 2 = $7.00",
    "1,000 + 24 = 1,024",
    "- 4 * 3 = 12 pens",
    "100% - 20% = 80%",
    "2^10 = 1024 = 32^2",
    "(2)(3) = 6, and −7 × 4 = −28",
]
FALSE = [
    ("Four pens cost 4 * 3 = 15 euros.", "4 * 3 = 15 euros, but it is 12"),
    ("3 x 4 = 13", "3 x 4 = 13, but it is 12"),
    ("A = (7 - -7 * 4) = (7 - 28) = -21", "(7 - -7 * 4) = (7 - 28), but it is 35"),
    ("1) 4*3 = 13", "4*3 = 13, but it is 12"),
    ("a 3 * 4 = 12, and 5 + 5 = 11.", "5 + 5 = 11, but it is 10"),
    ("She pays <<2*6=13>>13", "2*6 = 13, but it is 12"),
    ("20% of 50 = 12", "20% of 50 = 12, but it is 10"),
]
SILENT = [
    "x + 4 * 3 = 12", "3x = 12", "f(3) = 12", "5! = 120", "2 hours = 120 minutes", "10/3 = 3.33",
    "7 / 2 = 3", "the sum of 3, 4 and 5 = 12", "The total - 3 * 4 = 5", "60 / 3/4 = 80",
    "10 x 1 and 1/4 = 15", "log 8 + 1 = 4", "16 mod 5 + 1 = 3", "500cm³ * 2 = 7", "0900-0130 = 0730",
    "5 dozen * 2 = 120", "Is 3 * 4 = 15?", "3 * 4 = 12 * x", "ratio 3:4 + 1 = 3:5", "12 = 12",
    "3 hours + 30 minutes = 210 minutes", "1/0 = 5", "9^99 * 2 = 4", "pages 3-5 = 3", "((((", "= = =",
]  # fmt: skip


@pytest.mark.parametrize("text", TRUE)
def test_true_equations(text: str) -> None:
    found = equations(text)
    assert found and all(equation.holds for equation in found)


@pytest.mark.parametrize(("text", "said"), FALSE)
def test_false_equations(text: str, said: str) -> None:
    assert [str(equation) for equation in false_equations(text)] == [said]


@pytest.mark.parametrize("text", SILENT)
def test_nothing_is_said_where_there_is_doubt(text: str) -> None:
    assert false_equations(text) == []


def test_a_result_that_is_worked_on_is_no_mistake() -> None:
    assert [str(e) for e in equations("3 * 4 = 12 + 5 = 17")] == ["12 + 5 = 17"]


@st.composite
def expressions(draw: st.DrawFn, depth: int = 3) -> tuple[str, Fraction]:
    """Text of an expression and its value, by Python's own operators on fractions."""
    if depth == 0 or draw(st.booleans()):
        number = draw(st.integers(-99, 99))
        return str(number), Fraction(number)
    left, a = draw(expressions(depth=depth - 1))
    right, b = draw(expressions(depth=depth - 1))
    op = draw(st.sampled_from("+-*"))
    value = {"+": a + b, "-": a - b, "*": a * b}[op]
    return f"({left} {op} {right})", value


@given(expressions(), st.integers(-3, 3))
def test_any_expression_is_computed_exactly(made: tuple[str, Fraction], off: int) -> None:
    text, value = made
    found = equations(f"So A = {text} = {value + off} in all.")
    if "(" in text:
        [equation] = found
        assert equation.value == value
        # "3 + 0 = 3": a result that is worked on is not told apart from a bare number here.
        assert equation.holds == (off == 0)


SIGNS = "0123456789+-*/^()=., x%$<>\\{}\nabcs&é"
SUMS = st.tuples(
    st.integers(0, 99), st.sampled_from("+-*/×"), st.integers(0, 99), st.integers(-9, 99)
)
PIECES = st.one_of(
    st.text(alphabet=SIGNS, max_size=20), SUMS.map(lambda sum_: "{} {} {} = {}".format(*sum_))
)


def test_any_text_is_read() -> None:
    seen: set[bool] = set()

    @given(st.lists(PIECES, max_size=8).map("".join) | st.text(alphabet=SIGNS, max_size=300))
    def check(text: str) -> None:
        for equation in equations(text):
            assert equation.left and equation.right and str(equation)
            seen.add(equation.holds)

    check()
    assert seen == {False, True}


@pytest.mark.parametrize(
    "piece", ["1=", "(", "1+", "<<1=1>>", "\\frac{1}{2}", "1 a ", "((1)=", "-", "9^9^"]
)
def test_time_is_linear(piece: str) -> None:
    def seconds(length: int) -> float:
        """Of this processor, the least of three: what others do on the machine says nothing."""
        text, spent = piece * (length // len(piece)), []
        for _ in range(3):
            begun = time.process_time()
            equations(text)
            spent.append(time.process_time() - begun)
        return min(spent)

    short, long = seconds(10_000), seconds(80_000)
    assert long < 40 * max(short, 0.001), f"{short:.4f} s for 10,000, {long:.4f} s for 80,000"


def rollout_of(text: list[str]) -> wire.Rollout:
    spans, at = [], 0
    for step in text:
        spans.append((at, at + len(step)))
        at += len(step)
    return wire.Rollout(question="q", response="".join(text), steps=spans, outcome=1.0)


STEPS = ["4 * 3 = 15 euros. ", "20 - 15 = 5 euros. ", "So 5 + 5 = 11."]


@pytest.mark.parametrize("method", ["greedy", "intersection", "majority", "union", "average"])
async def test_the_engine_without_a_model(method: wire.VotingMethod) -> None:
    options = wire.CreditOptions(voting=wire.Voting(method=method))
    prepared = Preparer(None, {}, CritiquePolicy()).prepare(rollout_of(STEPS), options)
    result = await credit(SymbolicCritic(), prepared, options, outcome=1.0)
    assert [step.wrong for step in result.steps] == [True, False, True]
    [critique, *_] = result.critiques or []
    assert "Step 0: 4 * 3 = 15 euros, but it is 12" in critique.text


@pytest.mark.parametrize(("votes", "wrong"), [(0, []), (1, []), (4, [0, 2])])
async def test_votes_beside_a_judge_that_sees_nothing(votes: int, wrong: list[int]) -> None:
    engine = ScriptedEngine(lambda prompt, sampling: '", "incorrect_steps": []}')
    await engine.start()
    preparer = make_preparer(engine.encode, CritiquePolicy(symbolic_votes=votes), prefill=True)
    options = wire.CreditOptions(voting=wire.Voting(method="majority", n=4, early_stop=False))
    prepared = preparer.prepare(rollout_of(STEPS), options)
    result = await credit(JudgeCritic(engine, UNLIMITED), prepared, options, outcome=1.0)
    assert [step.index for step in result.steps if step.wrong] == wrong
    assert result.steps[0].votes == wire.Votes(wrong=votes, valid=4 + votes, asked=4)
    assert result.steps[1].votes == wire.Votes(wrong=0, valid=4, asked=4)
    said = [critique for critique in result.critiques or [] if critique.critic == "symbolic"]
    assert [(each.wrong_steps, each.weight) for each in said] == (
        [([0, 2], votes)] if votes else []
    )


@given(
    st.sampled_from(["greedy", "intersection", "majority", "union", "average"]),
    st.lists(st.frozensets(st.integers(0, 3)), min_size=1, max_size=6),
    st.sets(st.integers(0, 3)), st.integers(1, 5), st.integers(0, 6),
)  # fmt: skip
@example("union", [frozenset()], {0, 1, 2, 3}, 1, 0)
def test_decided_with_a_sure_critic_means_decided(
    method: str, critiques: list[frozenset[int]], sure: set[int], weight: int, seen: int
) -> None:
    def votes(some: list[frozenset[int]]) -> VoteCount:
        return VoteCount(
            [sum(step in c for c in some) for step in range(4)], len(some), sure, weight
        )

    part = critiques[:seen]
    if votes(part).decided(method, len(critiques) - len(part)):  # type: ignore[arg-type]
        assert votes(part).penalties(method) == votes(critiques).penalties(method)  # type: ignore[arg-type]
    whole = votes(critiques)
    bare = VoteCount(whole.counts, whole.valid).penalties(method)  # type: ignore[arg-type]
    assert all(whole.penalties(method)[s] >= bare[s] for s in range(4))  # type: ignore[arg-type]
    assert VoteCount(whole.counts, whole.valid).decided(method, 0)  # type: ignore[arg-type]
    assert not votes([]).decided(method, len(critiques))  # type: ignore[arg-type]


@given(
    st.sampled_from(["greedy", "intersection", "majority", "union", "average"]),
    st.lists(st.frozensets(st.integers(0, 3)), max_size=6),
    st.sets(st.integers(0, 3)),
    st.integers(1, 5),
    st.integers(1, 6),
)
def test_a_wave_with_a_sure_critic_is_as_small_as_could_decide_the_vote(
    method: Any, critiques: list[frozenset[int]], sure: set[int], weight: int, remaining: int
) -> None:
    counts = [sum(step in c for c in critiques) for step in range(4)]

    def could_decide(more: int) -> bool:
        """Where further critiques agree, and name no step that nobody has named."""
        may = [(0, more) if counts[step] or step in sure else (0,) for step in range(4)]
        return any(
            VoteCount(
                [count + named for count, named in zip(counts, further, strict=True)],
                len(critiques) + more,
                sure,
                weight,
            ).decided(method, remaining - more)
            for further in product(*may)
        )

    wave = VoteCount(counts, len(critiques), sure, weight).next_wave(method, remaining)
    assert wave == next(more for more in range(1, remaining + 1) if could_decide(more))
