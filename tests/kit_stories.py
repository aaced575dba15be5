"""Word problems with several solutions each, whose right ones are right by construction.

They are written as data sets and policies write them: calculator marks, units, currency, other
scripts, a slip that is carried on, and final answers in several forms.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from fractions import Fraction

SOLUTIONS = 4  # of each question, as a policy is sampled

# Question, and steps: what each says, and what it computes. The last one's value is the answer.
_STORIES = [
    (
        "Zoë’s café bakes {a} trays of {b} rolls and sells {c} of them at €{d} each. "
        "How many euros does it take?",
        [
            ("It bakes", "{a} * {b}"),
            ("For sale are, as {a} trays say,", "{c}"),
            ("It takes €", "{c} * {d}"),
        ],
    ),
    (
        "A train runs {a} km in the first hour, {b} km in the second, and then {c} km an hour for "
        "{d} hours. How far does it come?",
        [
            ("The first two hours:", "{a} + {b}"),
            ("The rest:", "{c} * {d}"),
            ("Together:", "{a} + {b} + {c} * {d}"),
        ],
    ),
    (
        "小明有 {a} 个苹果，又买了 {b} 个，然后平均分给 {d} 个朋友。每个朋友得到多少？",
        [("一共有", "{a} + {b}"), ("每人得到", "({a} + {b}) / {d}")],
    ),
    (
        "A tank holds {a} litres. Each day {b} litres flow in and {d} are used. "
        "What does it hold after {c} days?",
        [
            ("A day it gains", "{b} - {d}"),
            ("In all that is", "{c} * ({b} - {d})"),
            ("So it holds", "{a} + {c} * ({b} - {d})"),
        ],
    ),
]
_ENDS = ["A: {}", "#### {}", "The answer is \\boxed{{{}}}.", "So we get $\\boxed{{{}}}$"]


@dataclass(frozen=True, slots=True)
class Solution:
    """One solution; `right` says whether its final answer is the reference's."""

    question: str
    reference: str
    response: str
    right: bool


def solutions(count: int, seed: int = 0) -> list[Solution]:
    """So many, `SOLUTIONS` of each question, about half of them right."""
    chance = random.Random(seed)
    made: list[Solution] = []
    while len(made) < count:
        story, steps = chance.choice(_STORIES)
        numbers = {name: chance.randint(2, 99) for name in "abcd"}
        values = [_value(rule.format(**numbers)) for _, rule in steps]
        truth = values[-1]
        lines = [
            _line(said.format(**numbers), rule.format(**numbers), value, chance)
            for (said, rule), value in zip(steps, values, strict=True)
        ]
        reference = "\n".join([*lines, _ENDS[chance.randrange(2)].format(_written(truth))])
        for _ in range(SOLUTIONS):
            right = chance.random() < 0.5
            off = Fraction(0) if right else chance.choice([-10, -1, 1, 9, Fraction(1, 2), 100])
            mine = [*lines]
            if not right:
                said, rule = steps[-1]
                mine[-1] = _line(said, rule.format(**numbers), truth + off, chance)
            if chance.random() < 0.3:
                mine.insert(chance.randrange(len(mine)), "Let me think — step by step… ½ done 🥐")
            end = chance.choice(_ENDS).format(_written(truth + off))
            response = "\n".join([*mine, end])
            made.append(Solution(story.format(**numbers), reference, response, right))
    return made[:count]


def _value(rule: str) -> Fraction:
    """What a rule of this module computes, exactly."""
    return Fraction(eval(re.sub(r"\d+", r"Fraction(\g<0>)", rule), {"Fraction": Fraction}))


def _line(said: str, rule: str, value: Fraction, chance: random.Random) -> str:
    """One step, with or without a calculator's mark."""
    shown = _written(value)
    if rule.isdigit():
        return f"{said} {shown}."
    mark = f"<<{rule}={shown}>>".replace(" ", "") if chance.random() < 0.5 else ""
    return f"{said} {rule} = {mark}{shown}"


def _written(value: Fraction) -> str:
    """As a decimal if it is one, else as a fraction."""
    decimal = str(float(value)).removesuffix(".0")
    return decimal if Fraction(decimal) == value else f"{value.numerator}/{value.denominator}"
