"""Trajectories of the small environment for agents, with random mistakes of chosen kinds."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass

from capo_testbed.agents import LARGEST, MOST_TURNS, MOST_VALUE, NAMES, Episode, State, Task, Turn


@dataclass(frozen=True, slots=True)
class Slips:
    """Probabilities of mistakes in a demonstration, by kind.

    `misread_hard` and `misread_easy`: a looked-up number is used as one less, where its last digit
    is 7 or more, and elsewhere. `invent`: uses a random number after `busy`. `argument`: looks up
    another name; half of the time its value is then used. `repeat`: looks up again what was
    answered. `sign`: adds for subtracts, or the other way round. `restate`: misstates a result.
    `early`: answers before the last part. `answer`: the answer is not the last result.
    """

    misread_hard: float = 0.0
    misread_easy: float = 0.0
    invent: float = 0.0
    argument: float = 0.0
    repeat: float = 0.0
    sign: float = 0.0
    restate: float = 0.0
    early: float = 0.0
    answer: float = 0.0


NO_SLIPS = Slips()
# The policy's demonstrations; two kinds are more frequent than the right turn, so that a policy
# that takes the likeliest token makes them.
DEMONSTRATIONS = Slips(
    misread_hard=0.55,
    misread_easy=0.04,
    invent=0.55,
    argument=0.06,
    repeat=0.1,
    sign=0.04,
    restate=0.1,
    early=0.01,
    answer=0.02,
)
# Material for judges: every kind of mistake, none rare.
ALL_KINDS = Slips(
    misread_hard=0.25,
    misread_easy=0.12,
    invent=0.35,
    argument=0.12,
    repeat=0.12,
    sign=0.1,
    restate=0.25,
    early=0.03,
    answer=0.12,
)


def demonstrate(task: Task, rng: random.Random, slips: Slips) -> list[Turn]:
    """A trajectory with random mistakes; with `NO_SLIPS`, a right one."""
    episode, state = Episode(task, rng), State(task)
    turns: list[Turn] = []
    last = ""  # the number in the last observation of the table
    while not state.answered and len(turns) < MOST_TURNS:
        text = _slipped(state, rng, slips, last)
        if state.equation and rng.random() < 0.3:
            text = f"{_restated(state.equation, rng, slips)} {text}"
        observed = episode.observe(text) or ""
        state.go_on(text, observed)
        turns.append(Turn(text, observed))
        table = re.fullmatch(r"[a-z]+ (\d+)", observed)
        last = table[1] if table else ""
    return turns


def _slipped(state: State, rng: random.Random, slips: Slips, last: str) -> str:
    due = state.due()
    if due.startswith("say"):
        off = rng.random() < slips.answer
        return f"say {int(due[4:]) + rng.choice((-10, -1, 1, 10))}" if off else due
    if rng.random() < slips.early:
        return f"say {rng.randint(2, LARGEST)}"
    if due.startswith("get"):
        return _look_up(state, rng, slips, last)
    if rng.random() < slips.repeat:
        return f"get {_name(state)}"
    symbol, right = state.task.parts[state.at][0], str(state.known)
    hard = right[-1] in "789"
    if rng.random() < (slips.misread_hard if hard else slips.misread_easy):
        right = str(int(right) - 1)
    if symbol in "+-" and rng.random() < slips.sign:
        symbol = "-" if symbol == "+" else "+"
    return f"calc {state.value}{symbol}{right}"


def _look_up(state: State, rng: random.Random, slips: Slips, last: str) -> str:
    """A turn where a look-up is due."""
    if state.after_busy and rng.random() < slips.invent:
        return _with(state, str(rng.randint(2, MOST_VALUE)))
    if last and rng.random() < 0.5:  # the value of another name
        return _with(state, last)
    name = _name(state)
    if rng.random() < slips.argument:
        name = rng.choice([each for each in NAMES if each != name])
    return f"get {name}"


def _name(state: State) -> str:
    return state.task.parts[state.at][1]


def _with(state: State, number: str) -> str:
    """The calculation of the part that is due, with another number."""
    return f"calc {state.value}{state.task.parts[state.at][0]}{number}"


def _restated(equation: str, rng: random.Random, slips: Slips) -> str:
    left, _, result = equation.partition("=")
    off = rng.choice((-1, 1)) if rng.random() < slips.restate else 0
    return f"{left}={int(result) + off}"
