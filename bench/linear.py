"""Run time by length of input, for every parser of text from clients and judges.

    make bench-linear     # a table, and build/bench/linear.json

Each reader gets texts made to be hard for it, of 64 KiB and of 1 MiB. The exponent e says that
time grows as length to the e: 1 is linear, 2 quadratic.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from rich.console import Console
from rich.table import Table

from capo_service.api import json_splitting, parsing
from capo_service.api.problems import ProblemError
from capo_service.core import steps, suspicion
from capo_service.core.errors import InputError
from capo_service.core.step_code import step_code
from capo_service.core.verdicts import free_text
from capo_service.engine import control_tokens
from capo_wire.answers import UnfinishedThoughtError, final_answer, reference_answer

OUT = Path("build/bench/linear.json")
SHORT, LONG = 1 << 16, 1 << 20

# Repeated up to the length that is wanted.
HARD = {
    "half tags": "<step_", "half verdicts": "<incorrect_steps", "verdicts": "<incorrect_steps>",
    "keys": '"incorrect_steps": [', "newlines": "\n", "newlines and blanks": "\n \t", "blanks": " ",
    "full stops": ".", "ends of sentences": "a. ", "abbreviations": "e.g. ", "quotes": '."',
    "one letter": "a", "numbers": "1 ", "ranges": "1-2,", "words": "and ", "brackets": "(",
    "JSON": '{"a":[', "escapes": '\\"', "list": "[[1,2],", "half control": "<|",
    "instruction": "ignore ignore the ", "openers": "solution ", "hidden": "\u200b",
    "paragraphs": "a\n\n", "Han": "解。", "accents": "e\u0301", "backslashes": "\\",
    "boxes": "\\boxed{", "closed boxes": "\\boxed{1} ", "marks": "#### 1\n", "formulas": "\\( 1",
    "dollars": "$a ", "money": "$1 ", "answers": "answer is ", "answer lines": "Answer:\n",
    "questions": "Question: 1\n", "ends of thoughts": "</think>", "commas": ",",
    "commas and stops": ",.", "thoughts": "<think>", "objects": '{"a": "\\("} ',
    "remarks": "(a b) ", "fences": "```\n\n", "open fences": "~~~~\n\n```\n\n",
    "half heads": "[1 w", "heads": "[1 wx]\n", "full width": "\uff57\uff58",
    "marks above": "w\u0338\u0327\u0301", "displays": "$$\n\n",
    "environments": "\\begin{align}\n\n",
}  # fmt: skip


def _verdict(text: str) -> None:
    free_text.read(text, 50, truncated=True)
    free_text.read(text + "<incorrect_steps>1</incorrect_steps>", 50, rollout="incorrect" + text)
    free_text.read("<incorrect_steps>" + text, 10**6)
    free_text.read('{"incorrect_steps": [' + text + "]}", 10**6)


def _regex(text: str) -> None:
    for pattern in ("(a+)+$", r"(\s*\S*)*x", "a|b|c"):
        steps.by_pattern(text, pattern)


def _merging(text: str) -> None:
    steps.merged(text, steps.blank_line(text), 400, 20)


def _body(text: str) -> None:
    for body in (text, '{"rollouts":[' + text, '{"rollouts":[{"question":"' + text + '"}]}'):
        with suppress(ProblemError):
            parsing.parse(body.encode(), 100)
        json_splitting.split(body.encode())


def _suspicion(text: str) -> None:
    suspicion.suspicions("What is it?", text, steps.texts(text, steps.newline(text)), {})


def _final_answer(text: str) -> None:
    with suppress(UnfinishedThoughtError):
        final_answer(text)
    reference_answer(text)


READERS: dict[str, Callable[[str], object]] = {
    "verdict": _verdict,
    "segmenter blank_line": steps.blank_line,
    "segmenter newline": steps.newline,
    "segmenter sentence": steps.sentence,
    "segmenter regex (three patterns)": _regex,
    "merging of steps": _merging,
    "suspicion": _suspicion,
    "final answer": _final_answer,
    "code in the heads of steps": lambda text: step_code(b"s", "q", [text]),
    "escaping of control strings": control_tokens.escape,
    "request body (three forms)": _body,
}


def seconds(reader: Callable[[str], object], text: str, rounds: int = 3) -> float:
    """Processor time of the fastest of some rounds."""
    best = math.inf
    for _ in range(rounds):
        started = time.process_time()
        with suppress(InputError):
            reader(text)
        best = min(best, time.process_time() - started)
    return best


def hard_text(name: str, length: int) -> str:
    piece = HARD[name]
    return piece * (length // len(piece))


def exponent(
    reader: Callable[[str], object], name: str, short: int = SHORT, long: int = LONG
) -> tuple[float, float]:
    """How time grows with length, and seconds for the long text."""
    quick, slow = (seconds(reader, hard_text(name, length)) for length in (short, long))
    # Below a tenth of a millisecond only the clock is measured.
    return math.log(max(slow, 1e-4) / max(quick, 1e-4)) / math.log(long / short), slow


def main() -> None:
    found = []
    table = Table("reader", "1 MiB of <step_", "worst text", "ms", "greatest exponent", "of")
    for reader_name, reader in READERS.items():
        lines = []
        for name in HARD:
            grows, slow = exponent(reader, name)
            lines.append({"reader": reader_name, "text": name, "exponent": grows, "seconds": slow})
        found += lines
        slowest = max(lines, key=lambda line: line["seconds"])
        steepest = max(lines, key=lambda line: line["exponent"])
        table.add_row(
            reader_name, f"{1000 * lines[0]['seconds']:.0f} ms", slowest["text"],
            f"{1000 * slowest['seconds']:.0f}",
            f"{steepest['exponent']:.2f}", steepest["text"],
        )  # fmt: skip
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text(json.dumps(found, indent=2) + "\n")
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
