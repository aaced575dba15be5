"""Write client/capo_wire/examples/: the rollouts that `capo demo` credits.

    python tools/make_examples.py

`stories.jsonl` is for the judge `demo`, and `rollouts.jsonl` for every other. The texts are ours.
Each rollout carries its token ids under a judge's tokenizer and the character span of every id, so
that the demo works with any judge. `known_wrong` are the steps that are wrong by construction (cut
on blank lines, from 0).
"""

from __future__ import annotations

import json
from pathlib import Path

from tokenizers import Tokenizer

from capo_service.engine import embedded, testbed
from capo_service.settings.fields import DEMO_JUDGE

OUT = Path(__file__).resolve().parent.parent / "client/capo_wire/examples"
END = "<|im_end|>"


def collatz(start: int) -> tuple[str, int]:
    steps, n = [f"We start from {start} and count the moves."], start
    while n != 1:
        after = n // 2 if n % 2 == 0 else 3 * n + 1
        why = f"{n} / 2" if n % 2 == 0 else f"3 * {n} + 1"
        steps.append(
            f"{n} is {'even' if n % 2 == 0 else 'odd'}, so the next number is {why} = {after}."
        )
        n = after
    moves = len(steps) - 1
    steps.append(f"That took {moves} moves.\n\n#### {moves}")
    return "\n\n".join(steps), moves


BAKERY = (
    "A bakery bakes 12 trays with 8 rolls each. It sells 75 rolls in the morning and half of the "
    "rest in the afternoon, at 2 euros a roll. How many euros does it take in all day?"
)
LONG, MOVES = collatz(33)

EXAMPLES: list[dict[str, object]] = [
    {
        "id": "bakery-right",
        "question": BAKERY,
        "reference": "#### 170",
        "known_wrong": [],
        "response": "The bakery bakes 12 * 8 = 96 rolls.\n\nAfter the morning 96 - 75 = 21 rolls are "
        "left.\n\nHalf of 21 would be 10.5; it sells 10 whole rolls in the afternoon.\n\nIn all it "
        "sells 75 + 10 = 85 rolls.\n\nAt 2 euros each that is 85 * 2 = 170 euros.\n\n#### 170",
    },
    {
        "id": "bakery-slip",
        "question": BAKERY,
        "reference": "#### 170",
        "known_wrong": [1],
        "response": "The bakery bakes 12 * 8 = 96 rolls.\n\nAfter the morning 96 - 75 = 31 rolls are "
        "left.\n\nHalf of 31 would be 15.5; it sells 15 whole rolls in the afternoon.\n\nIn all it "
        "sells 75 + 15 = 90 rolls.\n\nAt 2 euros each that is 90 * 2 = 180 euros.\n\n#### 180",
    },
    {
        "id": "bakery-lucky",
        "question": BAKERY,
        "reference": "#### 170",
        "known_wrong": [1],
        "response": "The bakery bakes 12 * 8 = 96 rolls.\n\nAfter the morning 96 - 75 = 20 rolls are "
        "left.\n\nHalf of 20 is 10, so it sells 10 rolls in the afternoon.\n\nIn all "
        "it sells 75 + 10 = 85 rolls.\n\nAt 2 euros each that is 85 * 2 = 170 euros.\n\n#### 170",
    },
    {
        "id": "latex-quadratic",
        "question": r"Find the larger root of $x^2 - 5x + 6 = 0$.",
        "reference": r"\boxed{3}",
        "known_wrong": [],
        "response": "The discriminant is \\[ D = b^2 - 4ac = (-5)^2 - 4 \\cdot 1 \\cdot 6 = 1. \\]\n\n"
        "So the roots are \\[ x = \\frac{5 \\pm \\sqrt{1}}{2}, \\] that is $x = 2$ and $x = 3$.\n\n"
        "The larger root is $\\boxed{3}$.",
    },
    {
        "id": "latex-integral",
        "question": r"Compute $\int_0^2 3x^2 \, dx$.",
        "reference": r"\boxed{8}",
        "known_wrong": [0],
        "response": "An antiderivative of $3x^2$ is $F(x) = 6x$, since the power rule lowers the "
        "exponent.\n\nThen \\[ \\int_0^2 3x^2 \\, dx = F(2) - F(0) = 12 - 0 = 12. \\]\n\n"
        "The value is $\\boxed{12}$.",
    },
    {
        "id": "non-ascii",
        "question": "Zoë läuft täglich 3½ km, außer sonntags. Wie viele Kilometer läuft sie in zwei "
        "Wochen? (数字で答えよ)",
        "reference": "#### 42",
        "known_wrong": [],
        "response": "Eine Woche hat 7 − 1 = 6 Lauftage 🏃‍♀️.\n\nZwei Wochen haben 2 × 6 = 12 Lauftage."
        "\n\n合計は 12 × 3½ = 42 キロメートル。\n\n#### 42",
    },
    {
        "id": "long-collatz",
        "question": "Start from 33. If the number is even, halve it; if it is odd, multiply it by 3 "
        "and add 1. How many moves does it take to reach 1?",
        "reference": f"#### {MOVES}",
        "known_wrong": [],
        "response": LONG,
    },
    {
        "id": "train-wrong",
        "question": "A train leaves at 9:40 and arrives at 13:15. It stops for 25 minutes on the way. "
        "For how many minutes is it moving?",
        "reference": "#### 190",
        "known_wrong": [0],
        "response": "From 9:40 to 13:15 is 4 hours and 35 minutes.\n\n4 hours and 35 minutes are "
        "4 * 60 + 35 = 275 minutes.\n\nWithout the stop it moves for 275 - 25 = 250 minutes.\n\n"
        "#### 250",
    },
]  # fmt: skip


# Of the kind that the judge `demo` was trained on: one change of the number in each step.
STORIES: list[dict[str, object]] = [
    {
        "id": "right",
        "question": "Ann has 37 coins. Ann wins 25. Ann sells 8. Ann halves them. How many coins "
        "now?",
        "reference": "\\boxed{27}",
        "known_wrong": [],
        "response": "37 + 25 = 62\n\n62 - 8 = 54\n\n54 / 2 = 27\n\nThe answer is \\boxed{27}.",
    },
    {
        "id": "miscalculated",  # 18 + 27 = 45
        "question": "Ben has 18 shells. Ben finds 27. Ben doubles them. Ben lends 32. How many "
        "shells now?",
        "reference": "\\boxed{58}",
        "known_wrong": [0],
        "response": "18 + 27 = 35\n\n35 * 2 = 70\n\n70 - 32 = 38\n\nThe answer is \\boxed{38}.",
    },
    {
        "id": "misread",  # loses 16, not: wins 16
        "question": "Cara has 41 cards. Cara buys 13. Cara loses 16. Cara gets 5. How many cards "
        "now?",
        "reference": "\\boxed{43}",
        "known_wrong": [1],
        "response": "41 + 13 = 54\n\n54 + 16 = 70\n\n70 + 5 = 75\n\nThe answer is \\boxed{75}.",
    },
    {
        "id": "lucky",  # two mistakes that cancel out
        "question": "Dan has 45 pens. Dan gets 19. Dan loses 17. Dan buys 3. How many pens now?",
        "reference": "\\boxed{50}",
        "known_wrong": [0, 1],
        "response": "45 + 19 = 54\n\n54 - 17 = 47\n\n47 + 3 = 50\n\nThe answer is \\boxed{50}.",
    },
]


def main() -> None:
    write("rollouts.jsonl", EXAMPLES, embedded.folder(), embedded.TOKENIZER_NAME, END)
    write("stories.jsonl", STORIES, testbed.folder(DEMO_JUDGE), DEMO_JUDGE, "<|end|>")


def write(
    name: str, examples: list[dict[str, object]], folder: Path, tokenizer_name: str, end: str
) -> None:
    """The examples with their tokens under the tokenizer in `folder`."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    with (OUT / name).open("w", encoding="utf-8") as out:
        for example in examples:
            encoding = tokenizer.encode(str(example["response"]), add_special_tokens=False)
            size = len(str(example["response"]))
            record = {
                **example,
                "tokenizer": tokenizer_name,
                "response_token_ids": [*encoding.ids, tokenizer.token_to_id(end)],
                "token_offsets": [*map(list, encoding.offsets), [size, size]],
            }
            out.write(json.dumps(record, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
