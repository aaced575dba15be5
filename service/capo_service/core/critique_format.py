"""The formats of a critique: the grammar that it is decoded under, and the parser.

Two formats exist. `json` is decoded under a grammar: only steps that exist, each once, in
ascending order, and an analysis of bounded length in printable ASCII, so that `max_tokens` always
suffices (a token is at least one character). `tag` is the paper's free text, which ends in
`<incorrect_steps> 3, 5 </incorrect_steps>`. The parser accepts both, whichever was requested.
"""

from __future__ import annotations

import json
import re
from collections import deque
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

from capo_service.core.step_list import read_list, read_values
from capo_wire.special_text import after_thoughts

Style = Literal["verdict", "brief", "full"]

ANALYSIS_CHARACTERS: dict[Style, int] = {"verdict": 0, "brief": 200, "full": 1200}
_EXPECTED_TOKENS: dict[Style, int] = {"verdict": 16, "brief": 64, "full": 320}
_EXPECTED_TOKENS_OF_FREE_TEXT = 512
_ANALYSIS = '{"analysis": "'
_THEN_STEPS = '", "incorrect_steps": ['
_ONLY_STEPS = '{"incorrect_steps": ['
_END = "]}"


@dataclass(frozen=True, slots=True)
class Verdict:
    """A critique's parsed verdict.

    Attributes:
        wrong: the steps that it calls wrong; None if it cannot be parsed.
        reason: why it cannot be parsed.
    """

    wrong: frozenset[int] | None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class OutputFormat:
    """The format of a constrained critique, for a number of steps and an analysis length."""

    n_steps: int
    analysis_characters: int

    @classmethod
    def fitting(cls, n_steps: int, style: Style, max_tokens: int) -> OutputFormat | None:
        """The format for a style, with the analysis shortened to fit into `max_tokens`.

        None if the list of steps alone exceeds `max_tokens`.
        """
        wanted = ANALYSIS_CHARACTERS[style]
        bare = cls(n_steps, 0)
        if bare.max_tokens() > max_tokens:
            return None
        if not wanted:
            return bare
        spare = max_tokens - cls(n_steps, 1).max_tokens() + 1
        return cls(n_steps, min(wanted, max(spare, 0)))

    def max_tokens(self) -> int:
        """Tokens that suffice for every text of this format, the end token included."""
        steps = sum(len(str(step)) for step in range(self.n_steps)) + 2 * (self.n_steps - 1)
        frame = (
            len(_ANALYSIS) + self.analysis_characters + len(_THEN_STEPS)
            if self.analysis_characters
            else len(_ONLY_STEPS)
        )
        return frame + steps + len(_END) + 1

    def opening(self) -> str:
        """The fixed start of every text of this format."""
        return _ANALYSIS if self.analysis_characters else _ONLY_STEPS

    def grammar(self, opened: bool = False) -> str:
        """The format as a grammar in GBNF, for engines that decode under one.

        Args:
            opened: whether the opening is in the prompt, so that only the rest is generated.
        """
        return _grammar(self.n_steps, self.analysis_characters, opened)

    def json_schema(self) -> dict[str, Any]:
        """The format as a JSON schema, which also allows repeated and unordered steps."""
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


def expected_tokens(style: Style, constrained: bool = True) -> int:
    """A rough estimate of the tokens of a critique.

    Args:
        style: length of its analysis.
        constrained: whether it is JSON under a grammar; free text has one estimate for all styles.
    """
    return _EXPECTED_TOKENS[style] if constrained else _EXPECTED_TOKENS_OF_FREE_TEXT


@lru_cache(maxsize=256)
def _grammar(n_steps: int, analysis_characters: int, opened: bool) -> str:
    # s<i>: at least one step from i on; t<i>: the rest of the list after a step before i.
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


_KEY = "incorrect_steps"
_OPEN = re.compile(r"<\s{0,4}incorrect\\{0,2}[_ ]steps\s{0,4}(/?)\s{0,4}>", re.IGNORECASE)
_CLOSE = re.compile(r"<\s{0,4}\\?/\s{0,4}incorrect\\{0,2}[_ ]steps\s{0,4}>?", re.IGNORECASE)
_FENCE = re.compile(r"\s*(?:```\w{0,10}\s*)?(?=\{)")
_OBJECT = re.compile(r"\{\s*\"(?:[^\"\\\n]|\\.){0,60}\"\s*:")
_ESCAPE = re.compile(r"\\(?:[\"\\/bfnrt]|u[0-9a-fA-F]{4})|\\")
_DECODER = json.JSONDecoder(strict=False)

# Allowed after a verdict: punctuation, closing tags, end tokens, and one word on a new line.
_ENDING = re.compile(
    r"(?:[\s`*_.!\"'”。]|</\w{1,20}>|<\|[\w/]{1,30}\|>|<｜[^<>]{1,30}｜>|<eos>|<end_of_turn>)*"  # noqa: RUF001
)
_WORD = re.compile(r"(?!s(?:t(?:e(?:p|ps)?)?)?\b)[a-z]{1,30}[.!]?", re.IGNORECASE)
# The clause before the verdict says that it is a quotation, or describes the format.
_QUOTING = re.compile(
    r"\b(?:writes?|wrote|written|says?|said|saying|claims?|claimed|quotes?|quoted|contains?|"
    r"containing|includes?|imitat\w+|forge[sd]?|pretends?|inserts?|inserted|ends (?:in|with))\b"
    r"|\bformat\W{1,9}(?:\w+\W{1,9}){0,4}(?:is|was|were)\b|写道|声称|格式[是为]|\A\s*>",
    re.IGNORECASE,
)
# Clauses end here too: "step 1 contains an error, so the wrong step is" is a conclusion.
_CLAUSE_END = re.compile(
    r"[.!?。！？\n]|[,;]\s*(?:so|thus|hence|therefore|but|which|making)\b",  # noqa: RUF001
    re.IGNORECASE,
)
_CLAUSE = 300  # characters before a verdict that are searched for these
_QUOTED = 12  # characters before a verdict, without blanks, that are searched for in the rollout
_NOT_LAST = "text follows its list of wrong steps, which must come last"


def read(text: str, n_steps: int, *, truncated: bool = False, rollout: str = "") -> Verdict:
    """Parse a critique of a rollout with `n_steps` steps.

    Only the text after the judge's reasoning is parsed, and only a complete list at its end is a
    verdict: a list elsewhere, inside other JSON or in a quotation may be a draft, a description of
    the format, or text of the rollout.

    Args:
        text: the critique.
        n_steps: the steps are 0 to `n_steps` - 1.
        truncated: the text was cut off by the token limit, so a list that is not closed may lack
            steps or digits.
        rollout: the judged text; a verdict that repeats it is a quotation.
    """
    try:
        return Verdict(_read(text, n_steps, truncated, rollout))
    except ValueError as error:
        return Verdict(None, str(error))


def _read(text: str, n_steps: int, truncated: bool, rollout: str) -> frozenset[int]:
    if text.startswith(_THEN_STEPS):  # the engine left out the opening of the analysis
        text = _ANALYSIS + text
    # LaTeX in a JSON string is often written with single backslashes.
    text = _ESCAPE.sub(lambda found: found[0] if len(found[0]) > 1 else "\\\\", text)
    # A critique that is one JSON object is a verdict, whatever its strings contain.
    if fence := _FENCE.match(text):
        value, end = _decode(text, fence.end())
        if value is not None and _ends(text, end):
            return _of_object(value, n_steps)
    answer = after_thoughts(text)
    if answer is None:
        raise ValueError("its reasoning was not ended, so it has no verdict")
    value, start, end = _last_object(answer)
    tag = _last(_OPEN, answer, end)
    if tag is not None:
        body, start, end = _tagged(answer, tag, truncated)
    elif value is None:
        raise ValueError("it has no list of wrong steps")
    if not _ends(answer, end):
        raise ValueError(_NOT_LAST)
    if _is_quotation(answer, start, end, rollout):
        raise ValueError("its list of wrong steps is a quotation")
    return read_list(body, n_steps) if tag is not None else _of_object(value or {}, n_steps)


def _last(pattern: re.Pattern[str], text: str, start: int) -> re.Match[str] | None:
    found = deque(pattern.finditer(text, start), maxlen=1)
    return found[0] if found else None


def _tagged(answer: str, tag: re.Match[str], truncated: bool) -> tuple[str, int, int]:
    """The text between the tags, and where the verdict begins and ends."""
    if tag[1]:
        return "", tag.start(), tag.end()
    if (close := _CLOSE.search(answer, tag.end())) is not None:
        return answer[tag.end() : close.start()], tag.start(), close.end()
    body, end = answer[tag.end() :], len(answer)
    if not body.strip():
        raise ValueError("its list of wrong steps is not closed and is empty")
    if truncated:
        # The list may continue on the next line, unless a word follows there.
        blank = len(body) - len(body.lstrip())
        line, _, rest = body[blank:].partition("\n")
        if not _WORD.match(rest.strip()) or line.rstrip().endswith(tuple(",;，、；")):  # noqa: RUF001
            raise ValueError("the list of wrong steps was cut off")
        body, end = line, tag.end() + blank + len(line)
    return body, tag.start(), end


def _last_object(answer: str) -> tuple[dict[str, Any] | None, int, int]:
    """The last JSON object, and its start and end; (None, 0, 0) if there is none.

    Raises:
        ValueError: one is incomplete, so that later text may be part of one of its strings.
    """
    value, start, end = None, 0, 0
    while (found := _OBJECT.search(answer, end)) is not None:
        value, after = _decode(answer, found.start())
        if value is None:
            raise ValueError("it has JSON that is cut off or not valid")
        start, end = found.start(), after
    return value, start, end


def _decode(text: str, start: int) -> tuple[dict[str, Any] | None, int]:
    try:
        value, end = _DECODER.raw_decode(text, start)
    except (ValueError, RecursionError):
        return None, start
    return (value if isinstance(value, dict) else None), end


def _of_object(value: dict[str, Any], n_steps: int) -> frozenset[int]:
    steps = value.get(_KEY)
    if isinstance(steps, list):
        return read_values(steps, n_steps)
    if isinstance(steps, str) and steps.strip():
        return read_list(steps, n_steps)
    raise ValueError("it has no list of wrong steps")


def _ends(text: str, end: int) -> bool:
    """Whether nothing but allowed endings follows."""
    ending = _ENDING.match(text, end)
    rest = ending.end() if ending else end
    return rest == len(text) or ("\n" in text[end:rest] and bool(_WORD.fullmatch(text, rest)))


def _is_quotation(answer: str, start: int, end: int, rollout: str) -> bool:
    context = answer[max(0, start - _CLAUSE) : start]
    if context[-1:] and context[-1] in "\"'“‘«「":  # noqa: RUF001
        return True
    before, own = "".join(context.split())[-_QUOTED:], "".join(answer[start:end].split())
    if before and "incorrect" in rollout.lower() and before + own in "".join(rollout.split()):
        return True
    before = re.sub(r"```\w{0,10}\s*\Z", "", context).rstrip(" \t\n*`_")
    if "\n" in context[len(before) :] and not before.endswith((":", "：")):  # noqa: RUF001
        return False
    return _QUOTING.search(_CLAUSE_END.split(before)[-1]) is not None
