r"""A verdict on each step, as ThinkPRM (arXiv 2504.16828) writes it.

    Step 1: \boxed{correct}
    Step 2: \boxed{incorrect}

The judge may stop after an incorrect step: ThinkPRM was trained on critiques that end at the first
error. Steps after that one are then not called wrong.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, ClassVar

from capo_service.core.verdicts.base import ConstraintForm, Style, Verdict
from capo_service.core.verdicts.boxes import Box, answer_of, boxes
from capo_service.core.verdicts.gbnf import literal
from capo_service.core.verdicts.quotation import follows_mark, follows_opening_mark, is_copied
from capo_wire.special_text import without_thought_markers

_ANALYSIS_TOKENS: dict[Style, int] = {"verdict": 0, "brief": 256, "full": 2048}
_GRAMMAR_TOKENS = 400  # of an analysis in GBNF: each character more makes every token slower
_CHARACTERS_PER_TOKEN = 3
_EXPECTED_PER_STEP = 12
_RIGHT, _WRONG = "correct", "incorrect"
_OWN_LINE = re.compile(r"Step (0|[1-9]\d{0,8}): \\boxed\{(correct|incorrect)\}(\n|\s*\Z)")
_HEADING = re.compile(
    r"^[ \t>*#\-\[]{0,8}(?:step|paragraph)[ \t_#]{0,4}(0|[1-9]\d{0,8})\b",
    re.IGNORECASE | re.MULTILINE,
)

Label = tuple[int, bool]  # number of a step, whether it is called wrong


@dataclass(frozen=True, slots=True)
class BoxedSteps:
    """`correct` or `incorrect` for each step in order, after an analysis of limited length.

    Attributes:
        n_steps: the steps are 0 to `n_steps` - 1.
        analysis_tokens: maximum tokens of the analysis; 0: there is none.
        limit: maximum tokens of a critique that the engine does not constrain.
        first: the number of the first step in prompt and verdict.
        is_constrained: whether the engine can enforce the shape.
        is_opened: whether the opening is in the prompt.
    """

    n_steps: int
    analysis_tokens: int
    limit: int
    first: int = 1
    is_constrained: bool = True
    is_opened: bool = False
    name: ClassVar[str] = "boxed_steps"

    @classmethod
    def fitting(
        cls, n_steps: int, style: Style, max_tokens: int, form: ConstraintForm, first: int = 1
    ) -> BoxedSteps | None:
        """The shape of a style, with the analysis shortened to fit into `max_tokens`.

        None if the verdict alone exceeds `max_tokens`.
        """
        if form in ("json_schema", "none"):
            return cls(n_steps, 0, max_tokens, first, is_constrained=False)
        free = max_tokens - cls(n_steps, 0, max_tokens, first).max_tokens(form)
        if free < 0:
            return None
        if form == "grammar":
            free = min(free // _CHARACTERS_PER_TOKEN, _GRAMMAR_TOKENS)
        return cls(n_steps, min(_ANALYSIS_TOKENS[style], free), max_tokens, first)

    @property
    def opening(self) -> str:
        """The fixed start of a bare verdict, unless it is in the prompt."""
        is_bare = self.is_constrained and not self.analysis_tokens
        return self._first_line if is_bare and not self.is_opened else ""

    @property
    def _first_line(self) -> str:
        return _line(self.first)

    def opened(self) -> BoxedSteps:
        """The shape of what follows the opening."""
        return replace(self, is_opened=True)

    def structure(self) -> list[dict[str, Any]]:
        """An analysis bounded in tokens, then a line for each step."""
        lines = {"type": "grammar", "grammar": _grammar(self.first, self.n_steps, "")}
        if self.analysis_tokens:
            analysis = {"type": "any_text", "max_tokens": self.analysis_tokens}
            end = self._first_line
            return [{"type": "tag", "begin": "", "content": analysis, "end": end}, lines]
        if self.opening:
            return [{"type": "const_string", "value": self.opening}, lines]
        return [lines]

    def grammar(self) -> str:
        """The shape in GBNF. The analysis is printable ASCII without a backslash."""
        if not self.analysis_tokens:
            head = literal(self.opening) if self.opening else ""
            return _grammar(self.first, self.n_steps, head)
        characters = self.analysis_tokens * _CHARACTERS_PER_TOKEN
        head = f"char{{0,{characters}}} {literal(self._first_line)}"
        return "char ::= [ !-\\[\\]-~\\n]\n" + _grammar(self.first, self.n_steps, head)

    def json_schema(self) -> None:
        """Not available for this form."""
        return

    def max_tokens(self, form: ConstraintForm) -> int:
        """Tokens that suffice, the end token included; outside the analysis one a character."""
        if not self.is_constrained:
            return self.limit
        numbers = range(self.first, self.first + self.n_steps)
        lines = sum(len(_line(number)) + len(_WRONG) + 2 for number in numbers)  # } and line end
        opened = len(self._first_line) if self.is_opened and not self.analysis_tokens else 0
        per_token = 1 if form == "structural_tag" else _CHARACTERS_PER_TOKEN
        return self.analysis_tokens * per_token + lines - opened  # the end token for a line end

    def expected_tokens(self) -> int:
        """A rough estimate, by the number of steps and the length of the analysis."""
        analysis = self.analysis_tokens if self.is_constrained else _ANALYSIS_TOKENS["full"]
        return min(self.n_steps * _EXPECTED_PER_STEP + analysis // 2, self.limit)

    def read(self, text: str, *, truncated: bool = False, rollout: str = "") -> Verdict:
        """Parse a critique: by its own form, else the box under each step's heading."""
        try:
            return Verdict(self._read(text, truncated, rollout))
        except ValueError as error:
            return Verdict(None, str(error))

    def _read(self, text: str, truncated: bool, rollout: str) -> frozenset[int]:
        own = self._own_form(text)
        # An engine that enforces the form may end the analysis inside a thought.
        is_enforced = self.is_constrained and self.analysis_tokens and not truncated
        answer = text if own is not None and is_enforced else answer_of(text)
        if own is not None:
            answer = text
            start, end, labels = own
        else:
            if not any(_is_label(box) for box in boxes(answer)):
                answer = without_thought_markers(text)  # ThinkPRM labels the steps in its thought
            start, end, labels = _labels(answer)
        is_quoted = (follows_mark if own is None else follows_opening_mark)(answer, start)
        if is_quoted or is_copied(answer, start, end, rollout, "box"):
            raise ValueError("its verdicts on the steps are a quotation")
        return self._steps(labels, truncated)

    def _own_form(self, answer: str) -> tuple[int, int, list[Label]] | None:
        """Start, end and labels of the lines that end a critique, if they have the fixed form."""
        start = answer.rfind(self._first_line)
        labels: list[Label] = []
        at = start
        while start >= 0 and (line := _OWN_LINE.match(answer, at)):
            labels.append((int(line[1]), line[2] == _WRONG))
            at = line.end()
        return (start, at, labels) if labels and at == len(answer) else None

    def _steps(self, labels: list[Label], truncated: bool) -> frozenset[int]:
        last = self.first + self.n_steps - 1
        for expected, (number, _) in enumerate(labels, self.first):
            if number > last:
                raise ValueError(
                    f"it names step {number}, but the steps are {self.first} to {last}"
                )
            if number != expected:
                raise ValueError(f"its verdict on step {expected} is missing or doubled")
        if len(labels) < self.n_steps and (truncated or not labels[-1][1]):
            raise ValueError(f"its verdict on step {self.first + len(labels)} is missing")
        return frozenset(number - self.first for number, is_wrong in labels if is_wrong)


def _is_label(box: Box) -> bool:
    return box.content in (_RIGHT, _WRONG)


def _labels(answer: str) -> tuple[int, int, list[Label]]:
    """Each labelled step in order, with start and end of all of them.

    A label belongs to the last heading before it, and each needs a heading of its own.
    """
    labels: list[Label] = []
    start, end = len(answer), 0
    headings = list(_HEADING.finditer(answer))
    next_heading = 0
    for box in boxes(answer):
        if not _is_label(box):
            continue
        before = next_heading
        while next_heading < len(headings) and headings[next_heading].start() < box.start:
            next_heading += 1
        if next_heading == before:
            raise ValueError("one of its verdicts names no step, or a step has two")
        heading = headings[next_heading - 1]
        start, end = min(start, heading.start()), box.end
        labels.append((int(heading[1]), box.content == _WRONG))
    if not labels:
        raise ValueError("it has no verdict on any step")
    return start, end, labels


def _line(number: int) -> str:
    return f"Step {number}: \\boxed{{"


@lru_cache(maxsize=256)
def _grammar(first: int, n_steps: int, head: str) -> str:
    """GBNF of `head`, which ends in the start of the first line, and the lines' rest."""
    last = first + n_steps - 1
    rules = [f"root ::= {head} s{first}"]
    for i in range(first, last):
        rules.append(f's{i} ::= "{_RIGHT}}}" n{i + 1} | "{_WRONG}}}" (n{i + 1} | "")')
        rules.append(f"n{i + 1} ::= {literal(chr(10) + _line(i + 1))} s{i + 1}")
    rules.append(f's{last} ::= "{_RIGHT}}}" | "{_WRONG}}}"')
    return "\n".join(rules)
