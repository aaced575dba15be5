"""What it takes to prepare long trajectories, by their number of turns: time, memory, size.

    make bench-long_trajectories     # a table, and build/bench/long_trajectories.json

A trajectory has 600 tokens for each turn, tool call and observation together, with observations of
every size: 100 turns are 60,000 tokens. It is prepared up to the judge's prompt, in four forms:
token offsets and a mask, spans without tokens, chat turns, and chat turns that a context of 32,768
tokens (of three bytes, so nothing of a tokenizer is measured) does not hold, in windows. The
exponent e says that time grows as turns to the e: 1 is linear, 2 quadratic.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import time
import tracemalloc
from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

import capo_wire as wire
from capo_service.core.alignment import from_lengths
from capo_service.core.observations import shortened
from capo_service.core.turns import turns_by_mask
from capo_service.engine.base import ChatPrompt, EncodedPrompt, JudgePrompt
from capo_service.judges.loading import load_profile
from capo_service.pipeline.batch import estimated_tokens
from capo_service.pipeline.judge_prompt import JudgePrompter
from capo_service.pipeline.prepare import CritiquePolicy, Preparer
from capo_service.settings import Settings

OUT = Path("build/bench/long_trajectories.json")
TURNS = (25, 50, 100, 200)
TOKENS = 600  # of a turn and what is observed after it
CONTEXT = 32_768
_CHARACTERS = 4  # of a token
_OPTIONS = wire.CreditOptions()
_POLICY = CritiquePolicy(max_response_tokens=1 << 30, max_characters=1 << 30)


def messages(turns: int, seed: int = 0) -> list[dict[str, Any]]:
    """A trajectory as chat turns; observations of 10 to 1,000 tokens."""
    drawn = random.Random(seed)
    made: list[dict[str, Any]] = []
    for number in range(turns):
        share = drawn.choice([10, 50, 200, 500])
        rest = "".join(drawn.choices("abcdefgh \n", k=share * _CHARACTERS))
        text = f"Turn {number}: " + "I look at the file and think. " * ((TOKENS - share) // 8)
        call = {"name": "look", "arguments": json.dumps({"page": number})}
        made += [
            {"role": "assistant", "content": text, "tool_calls": [{"id": "c", "function": call}]},
            {"role": "tool", "tool_call_id": "c", "content": rest},
        ]
    return made


def trajectories(turns: int) -> dict[str, dict[str, Any]]:
    """One trajectory in each form, as a request has it."""
    chat = {"question": "Read all pages.", "outcome": 1.0, "response_turns": messages(turns)}
    text, observed = wire.Rollout(**chat).trajectory()
    sent = {"question": chat["question"], "outcome": 1.0, "response": text}
    ends = [*range(_CHARACTERS, len(text), _CHARACTERS), len(text)]
    own = bytearray(b"\1" * len(text))
    for start, end in observed or ():
        own[start:end] = bytes(end - start)
    mask = [own[end - 1] for end in ends]
    return {
        "mask": {**sent, "token_offsets": list(pairwise([0, *ends])), "response_mask": mask},
        "spans": {**sent, "observations": observed},
        "chat turns": chat,
        "chat turns in windows": chat,
    }


def encode(prompt: JudgePrompt) -> EncodedPrompt:
    """A prompt as text; a token is three bytes."""
    text = "".join(text for text, _ in (*prompt.system, *prompt.user))
    return ChatPrompt([{"role": "user", "content": text}], tokens=len(text.encode()) // 3)


@lru_cache
def preparer(context: int | None) -> Preparer:
    prompter = JudgePrompter(encode, context, load_profile("agent"), "structural_tag", b"secret")
    return Preparer(prompter, {}, _POLICY)


def prepare(form: str, rollout: wire.Rollout) -> int:
    """Prepare a rollout as the service does; the number of its windows."""
    estimated_tokens(rollout, _OPTIONS, lambda voting: 100, CONTEXT)
    found = preparer(CONTEXT if form.endswith("windows") else None).prepare(rollout, _OPTIONS)
    return len(found.windows)


def seconds(work: Callable[[], object], rounds: int) -> float:
    """Processor time of the fastest of some rounds."""
    best = math.inf
    for _ in range(rounds):
        started = time.process_time()
        work()
        best = min(best, time.process_time() - started)
    return best


def peak(work: Callable[[], object]) -> int:
    """The most memory that Python objects had, in bytes."""
    tracemalloc.start()
    work()
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return most


def exponent(sizes: Sequence[int], found: Sequence[float]) -> float:
    """How the figures grow with the sizes, from the first to the last."""
    return math.log(found[-1] / found[0]) / math.log(sizes[-1] / sizes[0])


def measure(sizes: Sequence[int] = TURNS, rounds: int = 3) -> list[dict[str, Any]]:
    """A line for each form: seconds, megabytes and bytes of the request by number of turns."""
    lines = []
    bodies = {turns: trajectories(turns) for turns in sizes}
    for form in bodies[sizes[0]]:
        line: dict[str, Any] = {"form": form, "turns": list(sizes), "seconds": []}
        line |= {"peak_bytes": [], "windows": [], "body_bytes": []}
        for turns in sizes:
            body = bodies[turns][form]
            rollout = wire.Rollout.model_validate(body)
            line["windows"].append(prepare(form, rollout))
            line["seconds"].append(seconds(lambda f=form, r=rollout: prepare(f, r), rounds))
            line["peak_bytes"].append(peak(lambda f=form, r=rollout: prepare(f, r)))
            line["body_bytes"].append(len(json.dumps(body, separators=(",", ":"))))
        line["exponent"] = exponent(sizes, line["seconds"])
        line["memory_exponent"] = exponent(sizes, line["peak_bytes"])
        lines.append(line)
    return lines


def _alternating(size: int) -> None:
    text = "ab" * (size // 2)
    turns_by_mask(from_lengths([1] * len(text), text), [0, 1] * (size // 2))


def _shorten(size: int) -> None:
    for piece in ("\U0001f600", "e\u0301", "\ud800", "a", "\u0338"):
        shortened(piece * (size // len(piece)), 1000)


def _many_turns(size: int) -> None:
    turn = [{"role": "assistant", "content": "Look."}, {"role": "tool", "content": "7"}]
    rollout = wire.Rollout.model_validate(
        {"messages": turn, "outcome": 1.0, "response_turns": turn * (size // 16)}
    )
    prepare("", rollout)


def _many_messages(size: int) -> None:
    turn = [{"role": "assistant", "tool_calls": [{"id": "c", "function": {"name": "look"}}]}]
    turn.append({"role": "tool", "tool_call_id": "c", "content": "7"})
    wire.Rollout.model_validate({"messages": turn * (size // 16), "response": "r"}).prompt_text()


def _many_windows(size: int) -> None:
    text = "\n\n".join(["I look at the page."] * 8)
    turn = [{"role": "assistant", "content": text}, {"role": "tool", "content": "7" * 90}]
    rollout = wire.Rollout.model_validate(
        {"question": "q", "outcome": 1.0, "response_turns": turn * (size // 64)}
    )
    preparer(4_096).prepare(rollout, _OPTIONS)


# What is hard by its number of turns or its characters.
HARD: dict[str, Callable[[int], None]] = {
    "alternating mask": _alternating,
    "shortened observations": _shorten,
    "thousands of chat turns": _many_turns,
    "thousands of messages": _many_messages,
    "windows in a short context": _many_windows,
}


def hard_exponent(name: str, short: int, long: int, rounds: int = 3) -> tuple[float, float]:
    """How time grows with size, and seconds for the larger."""
    work = HARD[name]
    quick, slow = (seconds(lambda s=size: work(s), rounds) for size in (short, long))
    return exponent([short, long], [max(quick, 1e-4), max(slow, 1e-4)]), slow


def refusals() -> dict[str, int]:
    """The default limits that a request of long trajectories may exceed."""
    fields = Settings.model_fields
    names = ("max_body_bytes", "max_characters", "max_response_tokens", "max_queued_tokens")
    return {name: fields[name].default for name in names}


def main() -> None:
    parser = argparse.ArgumentParser(description="What it takes to prepare long trajectories.")
    parser.add_argument("--quick", action="store_true", help="fewer turns, one round")
    quick = parser.parse_args().quick
    lines = measure((5, 10) if quick else TURNS, 1 if quick else 3)
    table = Table(
        "form", "turns", "windows", "ms", "exponent", "peak MiB", "exponent", "request KiB"
    )
    for line in lines:
        table.add_row(
            line["form"],
            *(" / ".join(map(str, line[key])) for key in ("turns", "windows")),
            " / ".join(f"{1000 * each:.0f}" for each in line["seconds"]),
            f"{line['exponent']:.2f}",
            " / ".join(f"{each / 2**20:.1f}" for each in line["peak_bytes"]),
            f"{line['memory_exponent']:.2f}",
            " / ".join(f"{each / 1024:.0f}" for each in line["body_bytes"]),
        )
    sizes = (512, 2048) if quick else (8_192, 65_536)
    hard = []
    for name in HARD:
        grows, slow = hard_exponent(name, *sizes, 1 if quick else 3)
        hard.append({"name": name, "sizes": sizes, "exponent": grows, "seconds": slow})
        table.add_row(name, "", "", f"{1000 * slow:.0f}", f"{grows:.2f}", "", "", "")
    report = {"trajectories": lines, "hard": hard, "limits": refusals()}
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text(json.dumps(report, indent=2) + "\n")
    Console(width=150).print(table)
    print(report["limits"])


if __name__ == "__main__":
    main()
