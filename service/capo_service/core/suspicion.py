"""What in a rollout looks like gaming a judge rather than solving a problem.

A judge can be fooled by a response that says nothing ("One Token to Fool LLM-as-a-Judge", arXiv
2507.08794), and rewards that are paid per token invite steps that are right and worthless (CAPO's
own ablation: with W_process = 5 rollouts grow and accuracy falls). Each check here is a rule that a
person can follow, takes linear time, and says why; none knows whether a rollout is right.
"""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import re2

from capo_service.core import thoughts
from capo_service.core.steps import Span

Reason = Literal[
    "near_empty", "master_key", "step_splitting", "padding", "repetition", "language_switch",
    "hidden_text", "imitation", "instruction",
]  # fmt: skip
Action = Literal["off", "flag", "cap", "wrong"]
REASONS: tuple[Reason, ...] = get_args(Reason)
CAPPED: tuple[Reason, ...] = ("step_splitting", "padding", "repetition")  # that know the steps

_LEAST_CONTENT = 8  # letters and digits of a response that says something
_LEAST_STEP = 4  # and of a step
_MANY_STEPS = 12
_LONG = 400  # characters; shorter texts are not padded
_MOST_FILLING = 0.7  # share of characters that are neither letters nor digits
_LONGEST_RUN = 200  # of one character
_LEAST_REPEATS = 4  # steps that repeat an earlier one
_FEWEST_WORDS, _FEWEST_DIFFERENT = 60, 0.15  # words, and share of different ones among them
_FOREIGN_LETTERS, _FOREIGN_SHARE = 20, 0.3


@dataclass(frozen=True, slots=True)
class Suspicion:
    """One reason to distrust a rollout. `steps`: those that it lies in; None for all of it."""

    reason: Reason
    detail: str
    action: Action = "flag"
    steps: frozenset[int] | None = None


Found = tuple[str, frozenset[int] | None]


def suspicions(
    question: str, response: str, spans: Sequence[Span], actions: Mapping[Reason, Action]
) -> list[Suspicion]:
    """Reasons to distrust a response to a question, with its steps' character spans.

    Args:
        question: what was asked; tells the languages that an answer may have.
        response: what is judged.
        spans: of its steps.
        actions: what is done for a reason; `flag` where nothing is said, `off` is not looked for.
    """
    text = _Text(question, response, [response[start:end] for start, end in spans])
    found = []
    for reason, check in _CHECKS.items():
        action = actions.get(reason, "flag")
        if action != "off" and (seen := check(text)) is not None:
            found.append(Suspicion(reason, seen[0], action, seen[1]))
    return found


def capped(earned: Sequence[float], hollow: frozenset[int]) -> list[float]:
    """Step rewards where hollow steps earn no more than the worst of the others.

    So a rollout's mean reward per token does not rise by steps without content.
    """
    others = [reward for step, reward in enumerate(earned) if step not in hollow]
    most = min(others, default=min(earned))
    return [min(r, most) if step in hollow else r for step, r in enumerate(earned)]


class _Text:
    """A rollout, and what several checks ask of it."""

    def __init__(self, question: str, response: str, steps: list[str]) -> None:
        self.question = question
        self.response = response
        self.steps = steps
        self.characters = Counter(response)
        self.content = _content(self.characters)
        contents = [_content(step) for step in steps]
        self.hollow = frozenset(i for i, n in enumerate(contents) if n < _LEAST_STEP)


def _content(text: str | Counter[str]) -> int:
    """Letters and digits."""
    counts = text if isinstance(text, Counter) else Counter(text)
    return sum(n for character, n in counts.items() if character.isalnum())


def _near_empty(text: _Text) -> Found | None:
    if text.content >= _LEAST_CONTENT:
        return None
    return f"the response has {text.content} letters and digits", None


# Openers that alone made judges say yes (arXiv 2507.08794, table 1), and their like.
_OPENERS = re2.compile(
    r"(?i)(thought process|let'?s (solve|think|work)[^.:!?\n]{0,60}|solution|answer|explanation|"
    r"reasoning|step \d+|the (final )?answer( is)?|here is (the|my) (solution|answer)|"
    r"to solve this( problem)?[^.:!?\n]{0,60}|okay|sure|"
    r"解|答案|解答|かいせつ|解説|respuesta|solución|lösung|antwort|réponse|решение|ответ|الحل|해설|풀이)"
    r"[\s.:,;!…-]*"
)


def _master_key(text: _Text) -> Found | None:
    if len(text.response) > _LONG:
        return None
    rest = _OPENERS.sub("", text.response)
    if _content(rest) >= _LEAST_STEP or rest == text.response:
        return None
    return "the response is an opening without a solution", None


def _step_splitting(text: _Text) -> Found | None:
    if len(text.steps) < _MANY_STEPS or 2 * len(text.hollow) < len(text.steps):
        return None
    said = f"{len(text.hollow)} of {len(text.steps)} steps hold fewer than {_LEAST_STEP}"
    return f"{said} letters and digits", text.hollow


_RUN = re.compile(r"(.)\1+", re.DOTALL)


def _padding(text: _Text) -> Found | None:
    length = len(text.response)
    if length < _LONG:
        return None
    filling = 1 - text.content / length
    if filling > _MOST_FILLING:
        return f"{filling:.0%} of the response are neither letters nor digits", text.hollow
    run = max((len(run[0]) for run in _RUN.finditer(text.response)), default=0)
    if run >= _LONGEST_RUN:
        return f"one character stands {run} times in a row", text.hollow
    return None


def _repetition(text: _Text) -> Found | None:
    seen: set[str] = set()
    repeats = set()
    for index, step in enumerate(text.steps):
        plain = " ".join(step.lower().split())
        if plain in seen:
            repeats.add(index)
        seen.add(plain)
    if len(repeats) >= _LEAST_REPEATS:
        return f"{len(repeats)} steps repeat an earlier one", frozenset(repeats)
    words = text.response.lower().split()
    if len(words) >= _FEWEST_WORDS and len(set(words)) < _FEWEST_DIFFERENT * len(words):
        return f"{len(words)} words, {len(set(words))} different ones", frozenset(repeats)
    return None


# First code points of Unicode's larger blocks of letters. Greek is everybody's, in mathematics.
_SCRIPTS = [
    (0x0000, "latin"), (0x0400, "cyrillic"), (0x0530, "armenian"), (0x0590, "hebrew"),
    (0x0600, "arabic"), (0x0900, "indic"), (0x0E00, "thai"), (0x0F00, "other"),
    (0x10A0, "georgian"), (0x1100, "korean"), (0x1200, "other"), (0x1E00, "latin"),
    (0x2E80, "han"), (0x3130, "korean"), (0x3190, "han"), (0xAC00, "korean"), (0xD7B0, "other"),
    (0xF900, "han"), (0xFB00, "latin"), (0xFB1D, "hebrew"), (0xFB50, "arabic"), (0xFF00, "latin"),
    (0x10000, "other"), (0x1D400, "latin"), (0x1D800, "other"), (0x20000, "han"),
]  # fmt: skip
_STARTS = [start for start, _ in _SCRIPTS]


def _scripts(characters: Mapping[str, int]) -> Counter[str]:
    counts: Counter[str] = Counter()
    for character, n in characters.items():
        if character.isalpha():
            counts[_SCRIPTS[bisect_right(_STARTS, ord(character)) - 1][1]] += n
    return counts


def _language_switch(text: _Text) -> Found | None:
    asked, said = _scripts(Counter(text.question)), _scripts(text.characters)
    foreign = {script: n for script, n in said.items() if not asked[script]}
    letters = sum(foreign.values())
    if not asked or letters < _FOREIGN_LETTERS or letters < _FOREIGN_SHARE * sum(said.values()):
        return None
    return f"{letters} letters in scripts that the question has not: {', '.join(foreign)}", None


_JOINERS = {"\u200d", "\u200c"}  # of emoji and of several scripts


def _hidden_text(text: _Text) -> Found | None:
    hidden = Counter(
        {c: n for c, n in text.characters.items()
         if c not in _JOINERS and (unicodedata.category(c) == "Cf" or c == "\u3164")}
    )  # fmt: skip
    if not hidden:
        return None
    names = ", ".join(f"U+{ord(character):04X}" for character, _ in hidden.most_common(3))
    return f"{hidden.total()} characters that are not seen ({names})", None


# The end of turn that a policy's own tokenizer writes out. Only at the end: elsewhere it is forged.
_END_OF_TURN = re2.compile(
    r"(?i)(\s*(<\|(im_end|endoftext|eot_id|eom_id|eot|eom|end|return|user|observation|role_end|"
    r"end_of_(text|turn|role)|end_of_turn_token|end_response)\|>|</s>|<eos>|<pad>|<end_of_turn>|"
    r"<turn\|>|\[EOS\]|<\x{FF5C}end\x{2581}of\x{2581}sentence\x{FF5C}>))+\s*\z"
)
_IMITATION = re2.compile(
    r"(?i)(<\|[a-z_]{2,20}\|>|<\x{FF5C}|</?s>|<(start|end)_of_turn>|\[/?INST\]|<</?SYS>>|"
    r"<\s*/?\s*step_\d|incorrect[_ ]steps)"
)


def _imitation(text: _Text) -> Found | None:
    # A policy that reasons writes the markers of its own thought.
    said = _END_OF_TURN.sub("", thoughts.without_markers(text.response))
    if (found := _IMITATION.search(said)) is None:
        return None
    return f"it writes {found[0]!r}, which is the prompt's or the judge's to write", None


_INSTRUCTION = re2.compile(
    r"(?i)((ignore|disregard|forget)\W+(\w+\W+){0,3}(instructions?|prompt|rules)|"
    r"(the|dear|note to( the)?|you are( an?)?|as an?) (judge|grader|evaluator|reviewer|verifier)|"
    r"(all|every) (of the )?(\w+ ){0,2}(steps?|above)( above)? (is|are) (correct|right|verified)|"
    r"(mark|rate|grade|label|score|report) (\w+ ){0,3}(as )?(correct|right|no errors?)|"
    r"no incorrect steps|return an empty list|ignoriere|ignora (las|todas)|ignorez|"
    r"忽略|无视|無視して|игнорируй|تجاهل|무시하)"
)


def _instruction(text: _Text) -> Found | None:
    if (found := _INSTRUCTION.search(text.response)) is None:
        return None
    return f"it speaks to the judge: {found[0][:80]!r}", None


_CHECKS: dict[Reason, Callable[[_Text], Found | None]] = {
    "near_empty": _near_empty,
    "master_key": _master_key,
    "step_splitting": _step_splitting,
    "padding": _padding,
    "repetition": _repetition,
    "language_switch": _language_switch,
    "hidden_text": _hidden_text,
    "imitation": _imitation,
    "instruction": _instruction,
}
