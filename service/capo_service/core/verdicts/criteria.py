"""The verdict on each criterion, as a part of a JSON verdict.

    "criteria": {"C0": "no", "C1": 3, "C2": "whole"}

Criteria are named by labels, because their ids and texts are untrusted. "no": it does not hold; a
number: it holds at that step; "whole": it holds for the response as a whole. A requirement is met
by the whole response or not at all.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from capo_service.core.number_list import read_values
from capo_service.core.verdicts.base import CriterionKind, CriterionVerdict
from capo_service.core.verdicts.gbnf import literal

KEY = "criteria"
EXPECTED_TOKENS = 8  # of the verdict on one criterion, roughly
_NO, _WHOLE = '"no"', '"whole"'
_START, _END = f'"{KEY}": {{', "}"
_BETWEEN = ", "
_FAILS = CriterionVerdict(False)
_WORDS = {"no": False, "none": False, "false": False, "whole": True, "yes": True, "true": True}


def label(position: int) -> str:
    """The name of a criterion in prompt and verdict."""
    return f"C{position}"


def grammar(kinds: Sequence[CriterionKind]) -> str:
    """GBNF of the part; it uses the rules of `rules`."""
    parts = [
        f"{literal(_entry(position))} {'met' if kind == 'requirement' else 'place'}"
        for position, kind in enumerate(kinds)
    ]
    return f"{literal(_START)} {' '.join(parts)} {literal(_END)}"


def rules(n_steps: int) -> list[str]:
    """Rules in GBNF for criteria of a rollout with `n_steps` steps."""
    met = f"{literal(_NO)} | {literal(_WHOLE)}"
    steps = " | ".join(f'"{step}"' for step in range(n_steps))
    return [f"met ::= {met}", f"place ::= met | {steps}"]


def json_schema(kinds: Sequence[CriterionKind], n_steps: int) -> dict[str, Any]:
    """The part as a JSON schema."""
    met = {"enum": ["no", "whole"]}
    step = {"type": "integer", "minimum": 0, "maximum": n_steps - 1}
    place = {"anyOf": [met, step]}
    properties = {
        label(position): met if kind == "requirement" else place
        for position, kind in enumerate(kinds)
    }
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def max_characters(kinds: Sequence[CriterionKind], n_steps: int) -> int:
    """The length of the longest text of the part."""
    longest = max(len(_WHOLE), len(str(n_steps - 1)))
    entries = sum(len(_entry(position)) + longest for position in range(len(kinds)))
    return len(_START) + entries + len(_END)


def pattern(kinds: Sequence[CriterionKind]) -> str:
    """A regular expression for the part, with a group for each verdict."""
    parts = [re.escape(_entry(position)) + r'("\w+"|\d+)' for position in range(len(kinds))]
    return re.escape(_START) + "".join(parts) + re.escape(_END)


def read(
    value: object, kinds: Sequence[CriterionKind], n_steps: int
) -> tuple[CriterionVerdict, ...]:
    """The verdicts in a parsed JSON object, in the order of the criteria.

    Raises:
        ValueError: one is missing, doubled, unknown, or not a verdict.
    """
    if not isinstance(value, dict):
        raise ValueError("it has no verdict on the criteria")
    given = {str(key).strip().upper(): each for key, each in value.items()}
    labels = [label(position) for position in range(len(kinds))]
    if missing := [each for each in labels if each not in given]:
        raise ValueError(f"its verdict on criterion {missing[0]} is missing")
    if len(given) < len(value) or len(given) > len(labels):
        unknown = [each for each in given if each not in labels]
        raise ValueError(
            f"it names a criterion {unknown[0][:20]!r} that does not exist"
            if unknown
            else "it names a criterion twice"
        )
    return tuple(
        read_one(given[each], kind, n_steps) for each, kind in zip(labels, kinds, strict=True)
    )


def read_one(value: object, kind: CriterionKind, n_steps: int) -> CriterionVerdict:
    """The verdict on one criterion.

    Raises:
        ValueError: it is not one.
    """
    word = str(value).strip().lower() if isinstance(value, str | bool) else ""
    if word in _WORDS:
        return CriterionVerdict(True) if _WORDS[word] else _FAILS
    try:
        [step] = read_values([value], n_steps)
    except ValueError as error:
        raise ValueError(f"its verdict on a criterion: {error}") from None
    return CriterionVerdict(True, None if kind == "requirement" else step)


def of_groups(
    groups: Sequence[str], kinds: Sequence[CriterionKind], n_steps: int
) -> tuple[CriterionVerdict, ...]:
    """The verdicts in the groups of `pattern`.

    Raises:
        ValueError: one is not a verdict.
    """
    values = [json.loads(group) for group in groups]
    return tuple(read_one(v, kind, n_steps) for v, kind in zip(values, kinds, strict=True))


def _entry(position: int) -> str:
    return f'{_BETWEEN if position else ""}"{label(position)}": '
