"""What a critique says: the grammar that it must follow, and how its text is read.

Two formats exist. `json` is decoded under a grammar: only steps that exist, each once, in
ascending order, and an analysis of bounded length in printable ASCII, so that `max_tokens` always
suffices (a token spells at least one character). `tag` is the paper's free text, which ends in
`<incorrect_steps> 3, 5 </incorrect_steps>`. The reader takes both, whatever was asked for.
"""

from __future__ import annotations

import re
from collections import deque
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

Style = Literal["verdict", "brief", "full"]

ANALYSIS_CHARACTERS: dict[Style, int] = {"verdict": 0, "brief": 200, "full": 1200}
_ANALYSIS = '{"analysis": "'
_THEN_STEPS = '", "incorrect_steps": ['
_ONLY_STEPS = '{"incorrect_steps": ['
_END = "]}"


@dataclass(frozen=True, slots=True)
class Verdict:
    """The steps that a critique calls wrong, or (`wrong` is None) why it cannot be read."""

    wrong: frozenset[int] | None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class OutputFormat:
    """One shape of constrained critique: for `n_steps` steps, with so long an analysis."""

    n_steps: int
    analysis_characters: int

    @classmethod
    def fitting(cls, n_steps: int, style: Style, max_tokens: int) -> OutputFormat | None:
        """The shape for a style, cut to `max_tokens`; None if the steps alone exceed it."""
        wanted = ANALYSIS_CHARACTERS[style]
        bare = cls(n_steps, 0)
        if bare.max_tokens() > max_tokens:
            return None
        if not wanted:
            return bare
        spare = max_tokens - cls(n_steps, 1).max_tokens() + 1
        return cls(n_steps, min(wanted, max(spare, 0)))

    def max_tokens(self) -> int:
        """Tokens that suffice for every text of this shape: its longest text, and the end."""
        steps = sum(len(str(step)) for step in range(self.n_steps)) + 2 * (self.n_steps - 1)
        frame = (
            len(_ANALYSIS) + self.analysis_characters + len(_THEN_STEPS)
            if self.analysis_characters
            else len(_ONLY_STEPS)
        )
        return frame + steps + len(_END) + 1

    def opening(self) -> str:
        """What every text of this shape begins with."""
        return _ANALYSIS if self.analysis_characters else _ONLY_STEPS

    def grammar(self, opened: bool = False) -> str:
        """The shape as a grammar in GBNF, for engines that decode under one.

        Args:
            opened: whether the opening stands in the prompt, and only the rest is written.
        """
        return _grammar(self.n_steps, self.analysis_characters, opened)

    def json_schema(self) -> dict[str, Any]:
        """The shape as a JSON schema: the same, save that steps may repeat or be out of order."""
        steps = {
            "type": "array",
            "items": {"type": "integer", "minimum": 0, "maximum": self.n_steps - 1},
            "maxItems": self.n_steps,
        }
        properties: dict[str, Any] = {"incorrect_steps": steps}
        if self.analysis_characters:
            analysis = {"type": "string", "maxLength": self.analysis_characters}
            properties = {"analysis": analysis, **properties}
        return {
            "type": "object",
            "properties": properties,
            "required": list(properties),
            "additionalProperties": False,
        }


@lru_cache(maxsize=256)
def _grammar(n_steps: int, analysis_characters: int, opened: bool) -> str:
    # s<i>: at least one step from i on; t<i>: what may follow once a step was named.
    last = n_steps - 1
    rules = []
    if analysis_characters:
        first = "" if opened else _literal(_ANALYSIS)
        head = f"{first} char{{0,{analysis_characters}}} {_literal(_THEN_STEPS)}"
        rules.append(r"char ::= [ !#-\[\]-~]")
    else:
        head = "" if opened else _literal(_ONLY_STEPS)
    rules.append(f'root ::= {head} (s0 | "") {_literal(_END)}')
    for i in range(last):
        rules.append(f's{i} ::= "{i}" t{i + 1} | s{i + 1}')
        rules.append(f't{i + 1} ::= ", {i + 1}" t{i + 2} | t{i + 2}')
    rules.append(f's{last} ::= "{last}"')
    rules.append(f't{n_steps} ::= ""')
    return "\n".join(rules)


def _literal(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


_OPEN = re.compile(r"<\s*incorrect[_ ]steps\s*(/?)\s*>", re.IGNORECASE)
_CLOSE = re.compile(r"<\s*\\?/\s*incorrect[_ ]steps\s*>?", re.IGNORECASE)
_JSON_KEY = re.compile(r"\"incorrect_steps\"\s*:\s*\[")
_STEP = re.compile(
    r"\s*(?:<\s*)?(?:(?:and\s+)?steps?\s*[_#-]?\s*|#)?(\d{1,9})(?:\s+[b-df-hj-np-tv-xz]{7}\b)?(?:\s*>)?"
)
_CLOSING_STEP = re.compile(r"<\s*/\s*step[^<>]{0,40}>")
_RANGE = re.compile(r"\s*(?:-|–|—|\bto\b|\bthrough\b|\.\.\.?)\s*")  # noqa: RUF001  # dashes meant
_SEPARATOR = re.compile(r"\s*(?:[,;&+\s]|\band\b)\s*(?:\band\b\s*)?")
_REMARK = re.compile(r"\([^()\d]{0,200}\)")
_NONE = {"", "none", "n/a", "na", "null", "empty", "no", "no steps", "no incorrect steps", "∅"}
_ALL = {"all", "all steps", "every step"}
_MOST_PER_STEP = 48  # characters a judge may spend on one step before the list is refused


def read(text: str, n_steps: int, *, truncated: bool = False) -> Verdict:
    """Read a critique of a rollout with `n_steps` steps.

    The last list in the text counts. `truncated`: the text was cut off by the token limit, so a
    list that is not closed may lack steps or digits.
    """
    tag = _last(_OPEN, text)
    json_list = _last(_JSON_KEY, text)
    if json_list is not None and (tag is None or json_list.start() > tag.start()):
        end = text.find("]", json_list.end())
        if end < 0:
            return Verdict(None, "the list of wrong steps is not closed")
        return _read_list(text[json_list.end() : end], n_steps)
    if tag is None:
        return Verdict(None, "it names no list of wrong steps")
    if tag[1]:
        return Verdict(frozenset())
    close = _CLOSE.search(text, tag.end())
    if close is not None:
        return _read_list(text[tag.end() : close.start()], n_steps)
    rest = text[tag.end() :].lstrip()
    line, ended, _ = rest.partition("\n")
    if truncated and not ended:
        return Verdict(None, "the list of wrong steps was cut off")
    return _read_list(line, n_steps)


def _last(pattern: re.Pattern[str], text: str) -> re.Match[str] | None:
    found = deque(pattern.finditer(text), maxlen=1)
    return found[0] if found else None


def _read_list(body: str, n_steps: int) -> Verdict:
    if len(body) > _MOST_PER_STEP * (n_steps + 4):
        return Verdict(None, "the list of wrong steps is too long")
    plain = _REMARK.sub(" ", body.lower().translate(_DECORATION))
    plain = _CLOSING_STEP.sub(" ", plain).strip().rstrip(".,;").strip()
    if plain in _NONE:
        return Verdict(frozenset())
    if plain in _ALL:
        return Verdict(frozenset(range(n_steps)))
    wrong: set[int] = set()
    at = 0
    while True:
        step = _STEP.match(plain, at)
        if step is None:
            return Verdict(None, f"not a list of steps: {body.strip()[:80]!r}")
        first = last = int(step[1])
        at = step.end()
        if (dash := _RANGE.match(plain, at)) and (end := _STEP.match(plain, dash.end())):
            last = int(end[1])
            at = end.end()
        if not first <= last < n_steps:
            named = str(first) if first == last else f"{first}-{last}"
            return Verdict(None, f"it names step {named}, but there are steps 0 to {n_steps - 1}")
        wrong.update(range(first, last + 1))
        if at == len(plain):
            return Verdict(frozenset(wrong))
        separator = _SEPARATOR.match(plain, at)
        if separator is None and plain[at] != "<":
            return Verdict(None, f"not a list of steps: {body.strip()[:80]!r}")
        at = separator.end() if separator else at


_DECORATION = str.maketrans({character: " " for character in "*`[]{}\"'"})
