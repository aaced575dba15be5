"""A small environment for agents, a look-up table and a calculator, with decidable turns.

    question      20+fig-pen?                   (from left to right)
    turn 0        get fig                       the table answers: fig 7
    turn 1        calc 20+7                     the calculator answers: 27
    turn 2        20+7=27 get pen               the table answers: busy
    turn 3        get pen                       the table answers: pen 3
    turn 4        calc 27-3                     the calculator answers: 24
    turn 5        say 24

A turn may begin with the last result, restated as an equation. The table is busy at random; a turn
that gets `busy` is right, and so is the next one if it asks again.

`check` judges each turn by what was asked and observed before it. A turn is wrong if it looks up a
name that is not due, calculates with another number or operation than the observed and asked ones,
misstates a result, repeats a look-up that was answered, invents a number that it has not observed,
or answers early or with another number than the last result. A turn that goes on correctly from the
result of a wrong calculation is right, and so is one that does that calculation again correctly.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

NAMES = ("fig", "pen", "cup", "nut", "hat", "jar", "key", "map")
BUSY = "busy"
ERROR = "error"
BUSY_SHARE = 0.15  # of look-ups
MOST_TURNS = 16
LARGEST = 99  # of every number on the true path
MOST_VALUE = 29  # in the table

_QUESTION = re.compile(r"^(\d+)((?:[-+*][a-z]+)+)\?$")
_PART = re.compile(r"([-+*])([a-z]+)")
_RESTATED = re.compile(r"^(-?\d+[-+*]\d+=-?\d+) ")
_GET = re.compile(r"get ([a-z]+)")
_CALC = re.compile(r"calc (-?\d{1,9})([-+*])(\d{1,5})")
_SAY = re.compile(r"say (-?\d+)")


@dataclass(frozen=True, slots=True)
class Task:
    """A question. `parts`: operations and names; `table`: the value of every name."""

    question: str
    start: int
    parts: tuple[tuple[str, str], ...]
    table: Mapping[str, int]

    @property
    def values(self) -> list[int]:
        """The number after each part."""
        found = [self.start]
        for symbol, name in self.parts:
            found.append(calculated(found[-1], symbol, self.table[name]))
        return found[1:]

    @property
    def answer(self) -> str:
        """The right last turn."""
        return f"say {self.values[-1]}"


class TurnLike(Protocol):
    """A turn of the policy, and what the environment answered (empty: nothing)."""

    @property
    def text(self) -> str: ...
    @property
    def observation(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Turn:
    """A `TurnLike`."""

    text: str
    observation: str


def calculated(left: int, symbol: str, right: int) -> int:
    """What the calculator answers."""
    return left + right if symbol == "+" else left - right if symbol == "-" else left * right


def make_task(rng: random.Random) -> Task:
    """A task of two or three parts."""
    while True:
        names = rng.sample(NAMES, rng.randint(2, 3))
        signs = rng.choices("+-*", (45, 45, 10), k=len(names))
        parts = "".join(map("".join, zip(signs, names, strict=True)))
        task = read_task(f"{rng.randint(5, 49)}{parts}?")
        if all(2 <= value <= LARGEST for value in task.values):
            return task


def read_task(question: str) -> Task:
    """Parse a question; its table follows from its text.

    Raises:
        ValueError: it is not a question of this environment.
    """
    match = _QUESTION.match(question.strip())
    parts = tuple(_PART.findall(match[2])) if match else ()
    if match is None or any(name not in NAMES for _, name in parts):
        raise ValueError(f"not a question of this environment: {question[:80]!r}")
    rng = random.Random(f"table {question.strip()}")  # noqa: S311  # data, not a secret
    table = {name: rng.randint(2, MOST_VALUE) for name in NAMES}
    return Task(question.strip(), int(match[1]), parts, table)


class State:
    """What follows from a question and from the turns so far.

    Attributes:
        value: the last result, or the question's first number.
        at: the number of parts that are done.
        known: the observed value of the name that is due.
        answered: whether the answer was given.
        after_busy: whether the table was busy in the last turn.
    """

    def __init__(self, task: Task) -> None:
        self.task = task
        self.answered = self.after_busy = False
        self.value, self.at = task.start, 0
        self.known: int | None = None
        self._equation: str | None = None  # the last turn's calculation and its result
        self._redo: str | None = None  # the right form of a wrong calculation in the last turn

    def due(self) -> str:
        """The call or the answer that is next."""
        if self.at == len(self.task.parts):
            return f"say {self.value}"
        symbol, name = self.task.parts[self.at]
        return f"get {name}" if self.known is None else f"calc {self.value}{symbol}{self.known}"

    def right(self) -> list[str]:
        """All right turns; the last one is what is due, without a restated result."""
        if self.answered:
            return []
        calls = [self.due()] if self._redo is None else [self._redo, self.due()]
        restated = [] if self._equation is None else [f"{self._equation} {each}" for each in calls]
        return [*restated, *calls]

    @property
    def equation(self) -> str | None:
        """The last turn's calculation and its result; None if it was another turn."""
        return self._equation

    def go_on(self, text: str, observation: str) -> None:
        """Take note of a turn and of its observation."""
        call, due, redo = _RESTATED.sub("", text.strip()), self.due(), self._redo
        self._equation = self._redo = None
        self.after_busy = observation == BUSY
        if _SAY.fullmatch(call):
            self.answered = True
        elif (match := _GET.fullmatch(call)) and self.at < len(self.task.parts):
            found = re.fullmatch(rf"{match[1]} (\d+)", observation)
            if found and match[1] == self.task.parts[self.at][1]:
                self.known = int(found[1])
        elif _CALC.fullmatch(call) and re.fullmatch(r"-?\d+", observation):
            self._equation = f"{call[5:]}={observation}"
            if call == redo:
                self.value = int(observation)
            elif self.at < len(self.task.parts):
                self._redo = due if call != due and due.startswith("calc") else None
                self.value, self.known = int(observation), None
                self.at += 1


class Episode:
    """The environment in one trajectory."""

    def __init__(self, task: Task, rng: random.Random) -> None:
        self._task, self._rng = task, rng

    def observe(self, text: str) -> str | None:
        """What a turn gets; None: the trajectory is over."""
        call = _RESTATED.sub("", text.strip())
        if _SAY.fullmatch(call):
            return None
        if match := _GET.fullmatch(call):
            busy = self._rng.random() < BUSY_SHARE
            value = self._task.table.get(match[1])
            return BUSY if busy else ERROR if value is None else f"{match[1]} {value}"
        if match := _CALC.fullmatch(call):
            return str(calculated(int(match[1]), match[2], int(match[3])))
        return ERROR

    def answer(self, text: str) -> str | None:
        """What the policy reads after a turn, in the form of its chat template."""
        observed = self.observe(text)
        return None if observed is None else reply(observed)


def reply(observation: str) -> str:
    """An observation in the form of the policy's chat template."""
    return f"<|user|>\n{observation}\n<|assistant|>"


def environment(question: str, key: str) -> Episode:
    """For the trainer (`data.environment`)."""
    return Episode(read_task(question), random.Random(f"luck {key}"))  # noqa: S311


def right_turns(task: Task, turns: Sequence[TurnLike]) -> list[list[str]]:
    """The right alternatives for each turn, given what was observed before it."""
    state, found = State(task), []
    for turn in turns:
        found.append(state.right())
        state.go_on(turn.text, turn.observation)
    return found


def check(question: str, turns: Sequence[TurnLike]) -> list[bool]:
    """Which turns are wrong: one bool a turn, True where it is."""
    right = right_turns(read_task(question), turns)
    return [turn.text.strip() not in each for turn, each in zip(turns, right, strict=True)]


def outcome(response: str, answer: str) -> float | None:
    """r_v: 1 if both say the same number at their ends; None if the answer says none."""
    wanted, said = _SAY.findall(answer), _SAY.findall(response)
    return float(said[-1:] == wanted[-1:]) if wanted else None
