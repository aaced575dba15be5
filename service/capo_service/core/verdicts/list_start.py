"""The start of a verdict in the form of `step_list`: what it settles, and what may follow it.

A start may end anywhere, also inside a number: tokens do not respect the list's parts. In `1, 1` of
12 steps, step 1 is wrong, and 1 may become 10 or 11.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import islice
from typing import Any

from capo_service.core.verdicts.base import ConstraintForm
from capo_service.core.verdicts.gbnf import literal

_END = "]}"
_DIGITS = frozenset("0123456789")


@dataclass(frozen=True, slots=True)
class ListRest:
    """What may follow the start of a list; a constraint for engines.

    Equal ones allow the same texts, whatever steps the start lists.

    Attributes:
        n_steps: the steps are 0 to `n_steps` - 1.
        before: what must follow before the list.
        after: the last step before the number at which the start ends; -1 if there is none.
        digits: the digits of that number.
        comma: `, ` or its start, if the start ends in it.
        closed: the end of the list, if the start ends in it.
    """

    n_steps: int
    before: str = ""
    after: int = -1
    digits: str = ""
    comma: str = ""
    closed: str = ""

    def numbers(self) -> Iterator[int]:
        """The steps that the number at the end of the start may become, in ascending order."""
        if not self.digits:
            yield from range(self.after + 1, self.n_steps)
            return
        low, high = int(self.digits), int(self.digits) + 1
        while low < self.n_steps:
            yield from range(max(low, self.after + 1), min(high, self.n_steps))
            if low == 0:
                return
            low, high = 10 * low, 10 * high

    def structure(self) -> list[dict[str, Any]]:
        """The grammar."""
        return [{"type": "grammar", "grammar": self.grammar()}]

    def grammar(self) -> str:
        """GBNF."""
        return _grammar(self)

    def json_schema(self) -> None:
        """A part of a JSON text has no schema."""

    def max_tokens(self, form: ConstraintForm) -> int:
        """Tokens that suffice, the end token included: one a character."""
        if self.closed:
            return len(_END) - len(self.closed) + 1
        fixed = len(self.before) + len(_END) + 1
        if self.digits:  # most characters follow if it becomes the smallest of its numbers
            step = next(self.numbers())
            behind = len(str(step)) - len(self.digits)
            return fixed + behind + _most_characters(step + 1, self.n_steps)
        listed = _most_characters(self.after + 1, self.n_steps)
        return fixed + listed - len(self.comma or ", ")


@dataclass(frozen=True, slots=True)
class ListStart:
    """The start of a list.

    Attributes:
        rest: what may follow it.
        listed: the steps that it names, without a number at its end.
    """

    rest: ListRest
    listed: frozenset[int] = frozenset()

    @property
    def is_complete(self) -> bool:
        """Whether the list is closed."""
        return bool(self.rest.closed)

    def settled(self) -> tuple[frozenset[int], int]:
        """The steps that every list with this start names, and the first step that it leaves open.

        Every list with this start says the same of the steps before that one.
        """
        rest = self.rest
        if rest.closed:
            return self.listed, rest.n_steps
        if not (rest.digits or rest.comma):
            return self.listed, 0
        first, *others = islice(rest.numbers(), 2)
        return (self.listed, first) if others else (self.listed | {first}, first + 1)

    def then(self, text: str) -> ListStart:
        """The start that `text` continues.

        Raises:
            ValueError: no list continues so.
        """
        rest, listed = self.rest, self.listed
        for character in text:
            rest, done = _next(rest, character)
            if done is not None:
                listed |= {done}
        if (rest.digits or rest.comma) and next(rest.numbers(), None) is None:
            raise ValueError(f"no step can follow in {text!r}")
        return ListStart(rest, listed)


def _next(rest: ListRest, character: str) -> tuple[ListRest, int | None]:
    """The rest after one more character, and the number that it ends."""
    if rest.before:
        if character == rest.before[0]:
            return replace(rest, before=rest.before[1:]), None
    elif rest.closed:
        if rest.closed + character == _END:
            return replace(rest, closed=_END), None
    elif rest.comma == ",":
        if character == " ":
            return replace(rest, comma=", "), None
    elif character in _DIGITS:
        if rest.digits != "0":
            return replace(rest, digits=rest.digits + character, comma=""), None
    elif rest.digits and character in ",]" and int(rest.digits) in rest.numbers():
        done = int(rest.digits)
        if character == ",":
            return ListRest(rest.n_steps, after=done, comma=","), done
        return ListRest(rest.n_steps, closed="]"), done
    elif character == "]" and not rest.digits and not rest.comma:
        return ListRest(rest.n_steps, closed="]"), None
    raise ValueError(f"{character!r} cannot follow there")


def _most_characters(first: int, n_steps: int) -> int:
    """Characters of the steps from `first` on, each after a comma."""
    return sum(len(", ") + len(str(step)) for step in range(first, n_steps))


@lru_cache(maxsize=1024)
def _grammar(rest: ListRest) -> str:
    if rest.closed:
        return f'root ::= "{_END[len(rest.closed) :]}"'
    # s<i>: at least one step from i on; t<i>: the rest of the list after a step before i.
    n_steps, first, rules = rest.n_steps, rest.after + 1, []
    if rest.digits:
        steps = list(rest.numbers())
        first = steps[0] + 1
        tails = (f"{literal(str(step)[len(rest.digits) :])} t{step + 1}" for step in steps)
        root = f"({' | '.join(tails)})"
    else:
        if rest.comma:
            root = f"{literal(', '[len(rest.comma) :])} s{first}"
        else:
            root = f'{literal(rest.before)} (s{first} | "")'
        for i in range(first, n_steps):
            later = f" | s{i + 1}" if i + 1 < n_steps else ""
            rules.append(f's{i} ::= "{i}" t{i + 1}{later}')
    rules += [f't{i} ::= ", {i}" t{i + 1} | t{i + 1}' for i in range(first, n_steps)]
    return "\n".join([f"root ::= {root} {literal(_END)}", *rules, f't{n_steps} ::= ""'])
