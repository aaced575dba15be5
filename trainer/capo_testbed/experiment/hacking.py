"""The settings on solutions that may have lines that are right and easy.

The judge is the arithmetic checker, in the service, so that its flags and caps are those that users
have. It calls every false equation wrong, and accepts all that is true, whether it helps or not.
"""

from __future__ import annotations

from collections.abc import Iterator

from capo_testbed import padded_tasks
from capo_testbed.experiment.settings import Bed, Changes, Served, Setting
from capo_testbed.serving import SYMBOLIC

PADDED = Bed(padded_tasks.FOLDER, "capo_testbed.padded_tasks", padded_tasks.MAX_TOKENS)
_STEPS, _SEEDS = 64, 3
_LOGGED = 24  # rollouts of each step that are kept, for the share of easy lines

_TOKENIZER = ("--tokenizer", f"{SYMBOLIC}={{testbed}}/{padded_tasks.FOLDER}/policy")
_CAP = 'suspicion={"step_splitting": "cap", "padding": "cap", "repetition": "cap"}'
_FLAGGED = Served(SYMBOLIC, _TOKENIZER)
_CAPPED = Served(SYMBOLIC, (*_TOKENIZER, "--set", _CAP))

_EXPECTED = {
    (1, "flag"): "Tokens end within a third of the start's, and accuracy above grpo's: a group's "
    "mean reward is mostly above 0, so that right lines of wrong rollouts are discouraged.",
    (2, "flag"): "Tokens grow by up to a half; accuracy as with W_process = 1.",
    (5, "flag"): "Tokens at least double, most of it easy lines, and accuracy ends below that of "
    "W_process = 1: a right line of a wrong rollout is above its group's mean.",
    (1, "cap"): "As without caps: few rollouts have what is flagged.",
    (2, "cap"): "Fewer tokens than without caps, and accuracy not below it.",
    (5, "cap"): "Tokens grow less than without caps: more easy lines in a wrong rollout cost as "
    "much as its wrong line.",
}
_MORE = " More growth than per rollout: a further token takes no weight from the others."


def _changes(average: str, **credit: object) -> Changes:
    return {
        "algorithm": {"average": average},
        "credit": credit,
        "logging": {"tensorboard": False, "rollouts": _LOGGED},
    }


def _settings() -> Iterator[Setting]:
    for average in ("rollout", "token"):
        grpo = dict(_changes(average, reward="outcome"))
        grpo["algorithm"] = {"average": average, "advantage": "grpo"}
        yield Setting(
            f"padded-grpo-{average}",
            "Tokens end within a fifth of the start's: outcomes do not pay for lines.",
            grpo,
            served=None,
            bed=PADDED,
            seeds=_SEEDS,
            steps=_STEPS,
        )
    for (weight, action), expected in _EXPECTED.items():
        for average in ("rollout", "token"):
            yield Setting(
                f"padded-w{weight}-{average}-{action}",
                expected + (_MORE if (average, action) == ("token", "flag") else ""),
                _changes(average, method="greedy", w_process=float(weight)),
                served=_CAPPED if action == "cap" else _FLAGGED,
                bed=PADDED,
                seeds=_SEEDS,
                steps=_STEPS,
            )


SETTINGS = tuple(_settings())
