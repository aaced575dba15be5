r"""A verdict that names only the first wrong step, as ProcessBench (arXiv 2412.06559) asks for it.

    An analysis, step by step. First error: \boxed{3}

-1 says that no step is wrong. Judges that no engine constrains write the box in many ways; the last
one of the critique counts.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, ClassVar

from capo_service.core.number_list import CODE
from capo_service.core.verdicts.base import ConstraintForm, Style, Verdict
from capo_service.core.verdicts.boxes import answer_of, last_box
from capo_service.core.verdicts.gbnf import literal
from capo_service.core.verdicts.quotation import follows_mark, follows_opening_mark, is_copied

NONE = -1  # no step is wrong
ANSWER = "First error: \\boxed{"  # ends an analysis under a constraint
_END = "}"
_BRIEF_TOKENS = 256
_GRAMMAR_TOKENS = 400  # of an analysis in GBNF: each character more makes every token slower
_CHARACTERS_PER_TOKEN = 3
_EXPECTED_TOKENS: dict[Style, int] = {"verdict": 16, "brief": 160, "full": 1024}
_OWN_FORM = re.compile(re.escape(ANSWER) + r"(-1|0|[1-9]\d{0,8})\}\s*\Z")
_INDEX = re.compile(
    r"[<\[]?\s*(?:the\s+)?(?:(?:index|step|paragraph)\s*(?:of\s+)?)*[\s_#:=]*(-?\d{1,9})"
    rf"(?:{CODE})?\s*[>\]]?"
)
_NO_ERROR = {"none", "no error", "no errors", "not found"}


@dataclass(frozen=True, slots=True)
class FirstError:
    """The number of the first wrong step, after an analysis of limited length.

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
    first: int = 0
    is_constrained: bool = True
    is_opened: bool = False
    name: ClassVar[str] = "first_error"

    @classmethod
    def fitting(
        cls, n_steps: int, style: Style, max_tokens: int, form: ConstraintForm, first: int = 0
    ) -> FirstError | None:
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
        wanted = {"verdict": 0, "brief": _BRIEF_TOKENS, "full": free}[style]
        return cls(n_steps, min(wanted, free), max_tokens, first)

    @property
    def opening(self) -> str:
        """The fixed start of a bare verdict, unless it is in the prompt."""
        is_bare = self.is_constrained and not self.analysis_tokens
        return ANSWER if is_bare and not self.is_opened else ""

    def opened(self) -> FirstError:
        """The shape of what follows the opening."""
        return replace(self, is_opened=True)

    def structure(self) -> list[dict[str, Any]]:
        """An analysis bounded in tokens, then the number.

        The analysis ends with words that a rollout hardly contains: it may quote the answer in the
        rollout, which is often in a box too.
        """
        number = {"type": "grammar", "grammar": f"root ::= {self._numbers()} {literal(_END)}"}
        if self.analysis_tokens:
            analysis = {"type": "any_text", "max_tokens": self.analysis_tokens}
            return [{"type": "tag", "begin": "", "content": analysis, "end": ANSWER}, number]
        if self.opening:
            return [{"type": "const_string", "value": self.opening}, number]
        return [number]

    def grammar(self) -> str:
        """The shape in GBNF. The analysis is printable ASCII without a backslash."""
        end = f"{self._numbers()} {literal(_END)}"
        if not self.analysis_tokens:
            opening = literal(self.opening) + " " if self.opening else ""
            return f"root ::= {opening}{end}"
        characters = self.analysis_tokens * _CHARACTERS_PER_TOKEN
        analysis = f"char{{0,{characters}}} {literal(ANSWER)}"
        return f"char ::= [ !-\\[\\]-~\\n]\nroot ::= {analysis} {end}"

    def json_schema(self) -> None:
        """Not available for this form."""
        return

    def max_tokens(self, form: ConstraintForm) -> int:
        """Tokens that suffice, the end token included; outside the analysis one a character."""
        if not self.is_constrained:
            return self.limit
        digits = max(len(str(NONE)), len(str(self.first + self.n_steps - 1)))
        opening = 0 if self.is_opened and not self.analysis_tokens else len(ANSWER)
        per_token = 1 if form == "structural_tag" else _CHARACTERS_PER_TOKEN
        return self.analysis_tokens * per_token + opening + digits + len(_END) + 1

    def expected_tokens(self) -> int:
        """A rough estimate, by the length of the analysis."""
        if self.is_constrained and not self.analysis_tokens:
            return _EXPECTED_TOKENS["verdict"]
        is_brief = self.is_constrained and self.analysis_tokens <= _BRIEF_TOKENS
        return min(_EXPECTED_TOKENS["brief" if is_brief else "full"], self.limit)

    def read(self, text: str, *, truncated: bool = False, rollout: str = "") -> Verdict:
        r"""Parse a critique: by its own form, else its last `\boxed{}`."""
        try:
            return Verdict(self._read(text, truncated, rollout))
        except ValueError as error:
            return Verdict(None, str(error))

    def _read(self, text: str, truncated: bool, rollout: str) -> frozenset[int]:
        own = _OWN_FORM.search(text)
        # An engine that enforces the form may end the analysis inside a thought.
        is_enforced = self.is_constrained and self.analysis_tokens and not truncated
        answer = text if own is not None and is_enforced else answer_of(text)
        if own is not None:
            answer, start, end, content = text, own.start(), own.end(1) + 1, own[1]
        else:
            start, end, content = _last_box(answer, truncated)
        is_quoted = (follows_mark if own is None else follows_opening_mark)(answer, start)
        if is_quoted or is_copied(answer, start, end, rollout, "box"):
            raise ValueError("its last box is a quotation")
        return self._steps(content)

    def _steps(self, content: str) -> frozenset[int]:
        if content in _NO_ERROR:
            return frozenset()
        found = _INDEX.fullmatch(content)
        if found is None:
            raise ValueError(f"its last box holds no step number: {content[:80]!r}")
        number, last = int(found[1]), self.first + self.n_steps - 1
        if number == NONE:
            return frozenset()
        if not self.first <= number <= last:
            raise ValueError(f"it names step {number}, but the steps are {self.first} to {last}")
        return frozenset((number - self.first,))

    def _numbers(self) -> str:
        return _numbers(self.first, self.n_steps)


def _last_box(answer: str, truncated: bool) -> tuple[int, int, str]:
    """Start, end and content of the last box."""
    last = last_box(answer)
    if last is None:
        raise ValueError("it has no box with the number of the first wrong step")
    if truncated:  # another box may have followed
        raise ValueError("it was cut off by the token limit before its end")
    if last.content is None:
        raise ValueError("its last box is not closed")
    return last.start, last.end, last.content


@lru_cache(maxsize=256)
def _numbers(first: int, n_steps: int) -> str:
    steps = range(first, first + n_steps)
    return "(" + " | ".join(f'"{number}"' for number in (NONE, *steps)) + ")"
