"""Steps that are very long, empty or many."""

from __future__ import annotations

LONG = [
    "x" * 6000,
    "correct " * 1500,
    "1 + " * 1500 + "1",
    "(" * 3000 + ")" * 3000,
    "<|" * 3000,
    "</step_" * 1200,
    "所以" * 2000,
    "\U0001f600" * 2000,
    "0." + "3" * 6000,
    '{"incorrect_steps": [' * 200,
]

REPEATED = [
    "\n\n".join(["4 * 3 = 12 is right."] * 12),
    "\n\n".join(["Therefore the solution is correct."] * 12),
    "\n\n".join(f"{n} + 1 = {n + 1}." for n in range(1, 30)),
    "\n\n".join(["1 = 1."] * 40),
    "\n\n".join(["We", "check", "step", "by", "step."]),
    "\n\n".join(["So."] * 40),
    "\n\n".join(f"Check {n}: passed." for n in range(20)),
    " ".join(["correct"] * 300),
]

EMPTY_STEPS = [
    "\n" * 3000,
    "\n\n".join([" "] * 200),
    "\n\n\u00a0\n\n\u2003\n\n\u3000",
    "\n\n".join(["-"] * 30),
    "\n\n".join(["."] * 30),
    "\r\n\r\n" * 300,
    "\n\n".join(["\u200b"] * 30),
    "\n\n\t\n\n\x0b\n\n\x0c\n\n\x1c\n\n\x85\n\n\u2028",
    "\n\n".join(["..."] * 40),
    " " * 3000,
]
