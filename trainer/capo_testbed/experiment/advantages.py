"""The settings that differ in how rewards become advantages.

All have the same judge, simulated at a precision and recall of 0.95. `advantages-mixed-*` learn on
the bed whose solutions may have easy lines: there the lengths of a question's rollouts have a
standard deviation of 8 tokens, against 1 for the stories (means 44 and 40; sampled by the policies
that learning starts from).
"""

from __future__ import annotations

from capo_testbed.experiment.hacking import PADDED
from capo_testbed.experiment.settings import STORIES, Bed, Setting, simulated

_RATES = {"precision": 0.95, "recall": 0.95}
_MIXED_SEEDS = 3

_EXPECTED = {
    "capo": "As capo-greedy, whose judge is about as good.",
    "pass": "One to three points below eq. 2, and above grpo: a line is credited with what comes "
    "after it too, so a mistake's penalty reaches the right lines before it.",
    "papo": "As eq. 2: here both distinguish wrong lines within right and wrong rollouts.",
    "vppo": "One to three points below eq. 2: right lines after a mistake are penalised.",
    "rloo": "As eq. 2: the deviations of the questions are alike, so the scale matters little.",
    "centred": "As rloo: the two differ by whether a rollout is in its own baseline.",
}
_MIXED_EXPECTED = {
    "capo": "Above outcomes alone; tokens within a fifth of the start's.",
    "pass": "Fewer tokens than eq. 2 at the end: with random rewards it encourages short rollouts.",
    "papo": "Accuracy and tokens as with eq. 2.",
    "vppo": "The fewest tokens of all: a longer rollout has more lines after a mistake.",
    "rloo": "Accuracy as with eq. 2; tokens within a tenth of eq. 2's.",
    "centred": "Accuracy and tokens as with eq. 2: with random rewards, eq. 2 favours long "
    "rollouts by 0.01 or less.",
}


def _setting(name: str, advantage: str, expected: str, bed: Bed, **others: int) -> Setting:
    changes = {"algorithm": {"advantage": advantage}, "credit": {"method": "greedy"}}
    return simulated(name, expected, _RATES, changes, bed=bed, **others)


def _outcome(name: str, advantage: str, expected: str, bed: Bed, **others: int) -> Setting:
    changes = {"algorithm": {"advantage": advantage}, "credit": {"reward": "outcome"}}
    return Setting(name, expected, changes, served=None, bed=bed, **others)


SETTINGS = (
    *(
        _setting(f"advantages-{name}", name, expected, STORIES)
        for name, expected in _EXPECTED.items()
    ),
    _outcome(
        "no-process",
        "capo",
        "As grpo: without penalties, eq. 2 differs from it by the weight of long rollouts alone.",
        STORIES,
    ),
    *(
        _setting(f"advantages-mixed-{name}", name, expected, PADDED, seeds=_MIXED_SEEDS)
        for name, expected in _MIXED_EXPECTED.items()
    ),
    _outcome(
        "advantages-mixed-grpo",
        "grpo",
        "Below all with a judge; tokens within a fifth of the start's.",
        PADDED,
        seeds=_MIXED_SEEDS,
    ),
    _outcome(
        "advantages-mixed-no-process",
        "capo",
        "As advantages-mixed-grpo, if the weight of long rollouts in eq. 2 matters little.",
        PADDED,
        seeds=_MIXED_SEEDS,
    ),
)
