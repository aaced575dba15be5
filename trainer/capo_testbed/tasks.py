"""Multi-step arithmetic stories whose every step a checker can decide.

A question tells how a number changes, one sentence a change. A solution has one line a change,
lines that restate the number, and the answer, separated by blank lines:

    Ann has 37 coins. She wins 25. She sells 8. She keeps half of them. How many coins has she now?

    37 + 25 = 62

    62 - 8 = 54

    54 / 2 = 27

    The answer is \\boxed{27}.

`check` follows a solution line by line and judges each on its own: a line that correctly uses an
earlier wrong number is right.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass

from capo_wire.segmentation import blank_line_steps

SEPARATOR = "\n\n"
LARGEST = 69  # of every number on the true path
_NAMES = ("Ann", "Ben", "Cara", "Dan", "Eve", "Finn", "Gus", "Hana")
_THINGS = ("coins", "beads", "cards", "nuts", "pens", "figs", "shells", "stamps")
_ADD = ("wins", "finds", "buys", "gets")
_SUBTRACT = ("loses", "sells", "eats", "lends")
_FIXED = {"doubles": ("*", 2), "triples": ("*", 3), "halves": ("/", 2)}

_START = re.compile(r"^\w+ has (\d+) ")
_CHANGE = re.compile(r" (\w+) (\d+|them)\.")
EQUATION = re.compile(r"^(-?\d+) ([-+*/]) (\d+) = (-?\d+)$")
RESTATED = re.compile(r"^So it is (-?\d+)\.$")
ANSWER = re.compile(r"^The answer is \\boxed\{(-?\d+)\}\.$")


@dataclass(frozen=True, slots=True)
class Change:
    """One change of the number: `symbol` is one of + - * /."""

    symbol: str
    number: int

    def of(self, value: int) -> int:
        """The number after the change; halves are rounded down."""
        match self.symbol:
            case "+":
                return value + self.number
            case "-":
                return value - self.number
            case "*":
                return value * self.number
            case _:
                return value // self.number


@dataclass(frozen=True, slots=True)
class Task:
    """A question, its parsed content, and its answer."""

    question: str
    start: int
    changes: tuple[Change, ...]

    @property
    def answer(self) -> int:
        value = self.start
        for change in self.changes:
            value = change.of(value)
        return value


@dataclass(frozen=True, slots=True)
class Slips:
    """Probabilities of mistakes in a demonstration, by kind.

    `carry_hard` and `carry_easy`: that an addition forgets its carry, or a subtraction its borrow,
    where the second number ends in 5 or more, and where it ends in less.
    """

    carry_hard: float = 0.0
    carry_easy: float = 0.0
    digit: float = 0.0  # the result is off by one
    sign: float = 0.0  # adds for subtracts, or the other way round
    copy: float = 0.0  # the second number is off by one
    answer: float = 0.0  # the answer is not the last number


NO_SLIPS = Slips()
# The policy's demonstrations; chosen so that it ends up right about half the time.
DEMONSTRATIONS = Slips(
    carry_hard=0.55, carry_easy=0.08, digit=0.02, sign=0.02, copy=0.01, answer=0.01
)
# Material for judges: every kind of mistake, none rare.
ALL_KINDS = Slips(carry_hard=0.3, carry_easy=0.3, digit=0.08, sign=0.05, copy=0.05, answer=0.08)


def make_task(rng: random.Random) -> Task:
    """A task of three to six changes."""
    start = rng.randint(5, 49)
    value = start
    name, thing = rng.choice(_NAMES), rng.choice(_THINGS)
    sentences = [f"{name} has {start} {thing}."]
    changes: list[Change] = []
    wanted = rng.randint(3, 6)
    while len(changes) < wanted:
        roll = rng.random()
        if roll < 0.8:
            verbs, symbol = (_ADD, "+") if roll < 0.4 else (_SUBTRACT, "-")
            verb, number = rng.choice(verbs), rng.randint(2, 39)
            action = f"{verb} {number}"
        else:
            verb = rng.choice(tuple(_FIXED))
            symbol, number = _FIXED[verb]
            action = f"{verb} them"
        change = Change(symbol, number)
        after = change.of(value)
        if not 2 <= after <= LARGEST:
            continue
        changes.append(change)
        sentences.append(f"{name} {action}.")
        value = after
    sentences.append(f"How many {thing} now?")
    return Task(" ".join(sentences), start, tuple(changes))


def read_task(question: str) -> Task:
    """Parse a question.

    Raises:
        ValueError: it is not a question of this testbed.
    """
    start = _START.match(question)
    if start is None:
        raise ValueError(f"not a question of this testbed: {question[:80]!r}")
    changes = []
    for verb, number in _CHANGE.findall(question):
        if verb in _FIXED:
            changes.append(Change(*_FIXED[verb]))
        elif verb in _ADD or verb in _SUBTRACT:
            changes.append(Change("+" if verb in _ADD else "-", int(number)))
        else:
            raise ValueError(f"not a question of this testbed: it has the verb {verb!r}")
    return Task(question, int(start[1]), tuple(changes))


def demonstrate(task: Task, rng: random.Random, slips: Slips) -> str:
    """A solution with random mistakes; with `NO_SLIPS`, a right one."""
    while True:
        lines, value = [], task.start
        for change in task.changes:
            written, result = written_change(change, value, rng, slips)
            lines.append(equation(value, written, result))
            value = result
            if not 0 <= value <= 2 * LARGEST:
                break
        else:
            while rng.random() < 0.15:
                lines.append(f"So it is {value}.")
            if rng.random() < slips.answer:
                value += rng.choice((-10, -1, 1, 10))
            lines.append(f"The answer is \\boxed{{{value}}}.")
            return SEPARATOR.join(lines)


def written_change(
    change: Change, value: int, rng: random.Random, slips: Slips
) -> tuple[Change, int]:
    """The change that a demonstration writes, perhaps with a mistake, and the result it gives."""
    symbol, number = change.symbol, change.number
    if symbol in "+-":
        if rng.random() < slips.sign:
            symbol = "-" if symbol == "+" else "+"
        if rng.random() < slips.copy:
            number += rng.choice((-1, 1))
    written = Change(symbol, number)
    result = written.of(value)
    chance = slips.carry_hard if number % 10 >= 5 else slips.carry_easy
    if symbol == "+" and value % 10 + number % 10 >= 10 and rng.random() < chance:
        result -= 10
    elif symbol == "-" and value % 10 < number % 10 and rng.random() < chance:
        result += 10
    elif rng.random() < slips.digit:
        result += rng.choice((-1, 1))
    return written, result


def split(response: str) -> list[str]:
    """The steps of a response, as the service's segmenter `blank_line` cuts them."""
    return blank_line_steps(response)


def right_steps(question: str, steps: Sequence[str]) -> list[tuple[str, ...]]:
    """The right alternatives for each step, given the steps before it.

    An equation must start from the number before it, make the next change of the question,
    and be computed correctly. After a step that skips changes, the walk continues from there. The
    answer must come last, after every change, and be the number before it.
    """
    task = read_task(question)
    value, at, answered = task.start, 0, False
    right: list[tuple[str, ...]] = []
    for step in map(str.strip, steps):
        due = task.changes[at] if at < len(task.changes) else None
        wanted = [f"So it is {value}."]
        if due is None:
            wanted.append(f"The answer is \\boxed{{{value}}}.")
        else:
            wanted.append(equation(value, due, due.of(value)))
        right.append(() if answered else tuple(wanted))
        if match := EQUATION.match(step):
            written = Change(match[2], int(match[3]))
            ahead = [i for i in range(at, len(task.changes)) if task.changes[i] == written]
            at = ahead[0] + 1 if ahead else min(at + 1, len(task.changes))
            value = int(match[4])
        elif match := RESTATED.match(step):
            value = int(match[1])
        answered = answered or ANSWER.match(step) is not None
    return right


def equation(value: int, change: Change, result: int) -> str:
    """The step that makes a change."""
    return f"{value} {change.symbol} {change.number} = {result}"


def check(question: str, steps: Sequence[str]) -> list[bool]:
    """Which steps are wrong: one bool a step, True where it is."""
    right = right_steps(question, steps)
    return [step.strip() not in wanted for step, wanted in zip(steps, right, strict=True)]


def answer_of(response: str) -> int | None:
    """The boxed answer, or None."""
    found = re.findall(r"\\boxed\{(-?\d+)\}", response)
    return int(found[-1]) if found else None


def outcome(response: str, answer: str) -> float | None:
    """r_v: 1 if both end in the same boxed number; None if the answer has none."""
    wanted = answer_of(answer)
    return None if wanted is None else float(answer_of(response) == wanted)
