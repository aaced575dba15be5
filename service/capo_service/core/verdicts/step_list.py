"""The verdict of the profile `default`: a JSON object with the list of wrong steps.

    {"analysis": "...", "incorrect_steps": [3, 5]}

With criteria, the verdict on each of them follows the list (`core.verdicts.criteria`).

Under a constraint only steps that exist are listed, each once, in ascending order. The analysis may
hold any character but `"`; LaTeX in it is not escaped, so a critique need not be valid JSON.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, ClassVar

from capo_service.core.number_list import read_values
from capo_service.core.verdicts import criteria as criteria_part
from capo_service.core.verdicts import free_text
from capo_service.core.verdicts.base import ConstraintForm, CriterionKind, Style, Verdict
from capo_service.core.verdicts.gbnf import literal
from capo_service.core.verdicts.list_start import ListRest, ListStart

ANALYSIS_TOKENS: dict[Style, int] = {"verdict": 0, "brief": 60, "full": 400}
_CHARACTERS_PER_TOKEN = 3  # of an analysis; for grammars, which count characters
_EXPECTED_TOKENS: dict[Style, int] = {"verdict": 16, "brief": 64, "full": 320}
_ANALYSIS = '{"analysis": "'
_THEN_STEPS = '", "incorrect_steps": ['
_ONLY_STEPS = '{"incorrect_steps": ['
_END_OF_LIST, _THEN_CRITERIA, _END = "]", ", ", "}"


@dataclass(frozen=True, slots=True)
class StepList:
    """A JSON list of wrong steps, after an analysis of limited length.

    Attributes:
        n_steps: the steps are 0 to `n_steps` - 1.
        analysis_tokens: maximum tokens of the analysis; 0: there is none.
        is_opened: whether the opening is in the prompt.
        criteria: the kind of each criterion that the judge is asked about.
    """

    n_steps: int
    analysis_tokens: int
    is_opened: bool = False
    criteria: tuple[CriterionKind, ...] = ()
    name: ClassVar[str] = "json"
    is_constrained: ClassVar[bool] = True

    @classmethod
    def fitting(
        cls,
        n_steps: int,
        style: Style,
        max_tokens: int,
        form: ConstraintForm,
        criteria: tuple[CriterionKind, ...] = (),
    ) -> StepList | None:
        """The shape of a style, with the analysis shortened to fit into `max_tokens`.

        None if the verdict alone exceeds `max_tokens`.
        """
        bare = cls(n_steps, 0, criteria=criteria)
        if bare.max_tokens(form) > max_tokens:
            return None
        shape = replace(bare, analysis_tokens=ANALYSIS_TOKENS[style])
        excess = shape.max_tokens(form) - max_tokens
        if excess <= 0:
            return shape
        per_token = 1 if form == "structural_tag" else _CHARACTERS_PER_TOKEN
        shorter = max(shape.analysis_tokens - -(-excess // per_token), 0)
        return replace(shape, analysis_tokens=shorter)

    @property
    def analysis_characters(self) -> int:
        """Maximum characters of the analysis under a grammar or a JSON schema."""
        return self.analysis_tokens * _CHARACTERS_PER_TOKEN

    @property
    def opening(self) -> str:
        """The fixed start of every text, unless it is in the prompt."""
        return "" if self.is_opened else self._start

    @property
    def _start(self) -> str:
        return _ANALYSIS if self.analysis_tokens else _ONLY_STEPS

    def opened(self) -> StepList:
        """The shape of what follows the opening."""
        return replace(self, is_opened=True)

    def start(self) -> ListStart:
        """The empty start of a bare list, which can be continued; see `list_start`.

        Raises:
            ValueError: there is an analysis, or criteria.
        """
        if self.analysis_tokens or self.criteria:
            raise ValueError("only a list without an analysis and criteria can be continued")
        return ListStart(ListRest(self.n_steps, self.opening))

    def structure(self) -> list[dict[str, Any]]:
        """An analysis bounded in tokens, then the list."""
        elements: list[dict[str, Any]] = []
        if self.opening:
            elements.append({"type": "const_string", "value": self.opening})
        if self.analysis_tokens:
            elements += [
                {"type": "any_text", "max_tokens": self.analysis_tokens, "excludes": ['"']},
                {"type": "const_string", "value": _THEN_STEPS},
            ]
        return [*elements, {"type": "grammar", "grammar": self._list_grammar("")}]

    def grammar(self) -> str:
        """The shape in GBNF. The analysis is printable ASCII without a backslash.

        A grammar that allows all of Unicode takes far longer per token.
        """
        if not self.analysis_tokens:
            return self._list_grammar(literal(self.opening))
        opening = literal(self.opening) + " " if self.opening else ""
        head = f"{opening}char{{0,{self.analysis_characters}}} {literal(_THEN_STEPS)}"
        return "char ::= [ !#-\\[\\]-~]\n" + self._list_grammar(head)

    def _list_grammar(self, head: str) -> str:
        return _list_grammar(self.n_steps, self.criteria, head)

    def json_schema(self) -> dict[str, Any]:
        """The shape as a JSON schema, which also allows repeated and unordered steps."""
        steps = {
            "type": "array",
            "items": {"type": "integer", "minimum": 0, "maximum": self.n_steps - 1},
            "maxItems": self.n_steps,
        }
        properties: dict[str, Any] = {"incorrect_steps": steps}
        if self.analysis_tokens:
            analysis = {"type": "string", "maxLength": self.analysis_characters}
            properties = {"analysis": analysis, **properties}
        if self.criteria:
            part = criteria_part.json_schema(self.criteria, self.n_steps)
            properties[criteria_part.KEY] = part
        return {
            "type": "object",
            "properties": properties,
            "required": list(properties),
            "additionalProperties": False,
        }

    def max_tokens(self, form: ConstraintForm) -> int:
        """Tokens that suffice, the end token included; outside the analysis one a character."""
        digits = sum(len(str(step)) for step in range(self.n_steps))
        ends = len(_END_OF_LIST) + len(_END) + 1  # and the end token
        fixed = len(self.opening) + digits + 2 * (self.n_steps - 1) + ends
        if self.criteria:
            part = criteria_part.max_characters(self.criteria, self.n_steps)
            fixed += len(_THEN_CRITERIA) + part
        if not self.analysis_tokens:
            return fixed
        by_tokens = form == "structural_tag"
        analysis = self.analysis_tokens if by_tokens else self.analysis_characters
        return fixed + analysis + len(_THEN_STEPS)

    def expected_tokens(self) -> int:
        """A rough estimate, by the length of the analysis and the number of criteria."""
        criteria = len(self.criteria) * criteria_part.EXPECTED_TOKENS
        for style in ("verdict", "brief"):
            if self.analysis_tokens <= ANALYSIS_TOKENS[style]:
                return _EXPECTED_TOKENS[style] + criteria
        return _EXPECTED_TOKENS["full"] + criteria

    def read(self, text: str, *, truncated: bool = False, rollout: str = "") -> Verdict:
        """Parse a critique: by its own form, else as tolerantly as free text.

        An engine that applies no constraint may write any text. A critique without a verdict on
        each criterion is refused as a whole.
        """
        if text.startswith(_THEN_STEPS):  # the engine left out the opening of the analysis
            text = _ANALYSIS + text
        kinds = self.criteria
        own = _own_form(kinds).fullmatch(text)
        try:
            if own is None:
                wrong, value = free_text.read_with_object(text, self.n_steps, truncated, rollout)
                given = value.get(criteria_part.KEY) if value else None
                criteria = criteria_part.read(given, kinds, self.n_steps) if kinds else ()
            else:
                steps: list[object] = [int(step) for step in own[1].split(", ")] if own[1] else []
                wrong = read_values(steps, self.n_steps)
                criteria = criteria_part.of_groups(own.groups()[1:], kinds, self.n_steps)
        except ValueError as error:
            return Verdict(None, str(error))
        return Verdict(wrong, criteria=criteria)


@lru_cache(maxsize=256)
def _own_form(kinds: tuple[CriterionKind, ...]) -> re.Pattern[str]:
    """Texts as the constraint allows them, with the list and each verdict on a criterion."""
    analysis = re.escape(_ANALYSIS[1:]) + r'[^"]*", '
    steps = re.escape(_ONLY_STEPS[1:]) + r"((?:\d+(?:, \d+)*)?)" + re.escape(_END_OF_LIST)
    criteria = re.escape(_THEN_CRITERIA) + criteria_part.pattern(kinds) if kinds else ""
    return re.compile(rf"{{(?:{analysis})?{steps}{criteria}{_END}\s*")


@lru_cache(maxsize=256)
def _list_grammar(n_steps: int, kinds: tuple[CriterionKind, ...], head: str) -> str:
    """GBNF of `head`, an ascending list of steps, the criteria, and the end."""
    # s<i>: at least one step from i on; t<i>: the rest of the list after a step before i.
    last = n_steps - 1
    end = literal(_END_OF_LIST + _END)
    if kinds:
        then = literal(_END_OF_LIST + _THEN_CRITERIA)
        end = f"{then} {criteria_part.grammar(kinds)} {literal(_END)}"
    rules = [f'root ::= {head} (s0 | "") {end}']
    for i in range(last):
        rules.append(f's{i} ::= "{i}" t{i + 1} | s{i + 1}')
        rules.append(f't{i + 1} ::= ", {i + 1}" t{i + 2} | t{i + 2}')
    rules.append(f's{last} ::= "{last}"')
    rules.append(f't{n_steps} ::= ""')
    if kinds:
        rules += criteria_part.rules(n_steps)
    return "\n".join(rules)
