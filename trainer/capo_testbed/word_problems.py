"""Short word problems of one or two operations for small language models, in GSM8K's form.

    Ann has 37 books and sells 5 of them. Then she gets 4 more. How many books does Ann have now?

`check` decides each equation of an answer on its own, so that its rate of wrong steps is the share
of equations that are false. It reads whole numbers and the four operations only, and shares no code
with the service's arithmetic checker.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Annotated

import typer

_NAMES = {"Ann": "she", "Ben": "he", "Cara": "she", "Dan": "he", "Eve": "she", "Finn": "he"}
_THINGS = ("apples", "books", "cards", "coins", "eggs", "pens", "shells", "stamps")
_SIGN = r" ?[-+*/x\u00d7\u00f7] ?"
# Not a part of a longer number, sum or chain of equations, which it would cut.
_EQUATION = re.compile(
    rf"(?<![\d.,/*+=-])(\d+(?:{_SIGN}\d+)+) ?= ?\$?(\d+(?:\.\d+)?)(?!\d|,\d|{_SIGN}\d)"
)
_TERM = re.compile(r"([-+*/x\u00d7\u00f7]) ?(\d+)")
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
_MARKED = re.compile(r"answer is:? ?\$?(-?\d+(?:\.\d+)?)", re.IGNORECASE)


def make_problem(rng: random.Random) -> tuple[str, str]:
    """A question, and its solution, which ends in `#### N`."""
    name, thing = rng.choice(tuple(_NAMES)), rng.choice(_THINGS)
    kind = rng.choice("+-*")
    if kind == "+":
        first, second = rng.randint(8, 40), rng.randint(3, 30)
        value, story = first + second, f"{name} has {first} {thing} and buys {second} more."
    elif kind == "-":
        first = rng.randint(12, 50)
        second = rng.randint(3, first - 4)
        value, story = first - second, f"{name} has {first} {thing} and sells {second} of them."
    else:
        first, second = rng.randint(2, 9), rng.randint(3, 12)
        value, story = (
            first * second,
            f"{name} has {first} boxes with {second} {thing} in each box.",
        )
    solution = [f"{first} {kind} {second} = {value}"]
    if rng.random() < 0.3:
        more = rng.randint(2, 9)
        solution.append(f"{value} + {more} = {value + more}")
        story += f" Then {_NAMES[name]} gets {more} more."
        value += more
    question = f"{story} How many {thing} does {name} have now?"
    return question, "\n".join([*solution, f"#### {value}"])


def write_problems(folder: Path, train: int = 400, held_out: int = 100, seed: int = 0) -> None:
    """Write `train.jsonl` and `eval.jsonl`, which share no question."""
    rng, seen = random.Random(seed), set()  # noqa: S311  # data, not a secret
    lines: list[str] = []
    while len(lines) < train + held_out:
        question, answer = make_problem(rng)
        if question not in seen:
            seen.add(question)
            lines.append(json.dumps({"question": question, "answer": answer}) + "\n")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "eval.jsonl").write_text("".join(lines[:held_out]))
    (folder / "train.jsonl").write_text("".join(lines[held_out:]))


def false_equations(text: str) -> list[bool]:
    """Each equation of whole numbers in a text, in order: whether it is false."""
    found = []
    for left, right in _EQUATION.findall(text):
        value = _value(left)
        if value is not None:
            found.append(value != Fraction(right))
    return found


def _value(left: str) -> Fraction | None:
    """`3 + 4 * 5`, with products before sums; None where it divides by zero."""
    sums, product, sign = Fraction(0), Fraction(_NUMBER.match(left)[0]), 1  # type: ignore[index]
    for symbol, digits in _TERM.findall(left):
        number = Fraction(digits)
        if symbol in "+-":
            sums, product, sign = sums + sign * product, number, 1 if symbol == "+" else -1
        elif symbol in "*x\u00d7":
            product *= number
        elif number:
            product /= number
        else:
            return None
    return sums + sign * product


def check(question: str, steps: Sequence[str]) -> list[bool]:
    """For `evaluation.checker`: one bool for each equation, in place of one for each step."""
    return false_equations("\n".join(steps))


def outcome(response: str, answer: str) -> float | None:
    """For `data.verifier`: whether the answer that is named, or else the last number, is right."""
    wanted = answer.rpartition("#### ")[2].strip()
    if not _NUMBER.fullmatch(wanted):
        return None
    named = _MARKED.findall(response) or _NUMBER.findall(response.replace(",", ""))
    return float(bool(named) and Fraction(named[-1]) == Fraction(wanted))


def main(
    folder: Annotated[Path, typer.Argument(help="Where train.jsonl and eval.jsonl are written.")],
) -> None:
    """Write the questions."""
    write_problems(folder)


if __name__ == "__main__":
    typer.run(main)
