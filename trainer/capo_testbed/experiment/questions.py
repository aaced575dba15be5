"""The questions, and the settings that answer them.

What is expected of each setting was written before its first run, and stays as it was written.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from capo_testbed.experiment import advantages, hacking
from capo_testbed.experiment.settings import Served, Setting, simulated


@dataclass(frozen=True, slots=True)
class Question:
    """A question of the report; a setting may answer several."""

    name: str
    title: str
    settings: tuple[Setting, ...]


def _credit(**changes: Any) -> Mapping[str, Mapping[str, Any]]:
    return {"credit": changes}


_OUTCOME = {"credit": {"reward": "outcome"}, "algorithm": {"advantage": "grpo"}}

SFT = Setting(
    "sft",
    "Where all start.",
    {"credit": {"reward": "outcome"}, "evaluation": {"at_start": True}},
    served=None,
    steps=0,
    seeds=1,
)
GRPO = Setting("grpo", "The baseline: outcome alone.", _OUTCOME, served=None)
GENORM = Setting(
    "grpo-genorm",
    "Between grpo and capo-majority: the judge's verdict as one number for the rollout (eq. 3).",
    {"credit": {"reward": "generative_outcome"}, "algorithm": {"advantage": "grpo"}},
)
MAJORITY = Setting("capo-majority", "About 8 points above grpo, as in earlier builds.")
GREEDY = Setting(
    "capo-greedy",
    "As capo-majority: this judge rarely disagrees with itself.",
    _credit(method="greedy"),
)
ORACLE = simulated("oracle", "At most two points above capo-majority: the judge's F1 is 0.96.")

CONTROLS = Question(
    "controls",
    "Is it where the penalty falls?",
    (
        SFT,
        GRPO,
        GENORM,
        MAJORITY,
        ORACLE,
        Setting(
            "control-random",
            "A third of the gain or less: a rollout with more wrong steps still gets more "
            "penalties, which is a finer outcome, but they fall on right steps.",
            _credit(placement="random"),
        ),
        Setting(
            "control-shifted",
            "No gain over grpo, or a loss: the step after a mistake is mostly right.",
            _credit(placement="shifted"),
        ),
        Setting(
            "control-inverted",
            "Far below grpo: wrong steps are rewarded relative to right ones.",
            _credit(placement="inverted"),
        ),
        Setting(
            "control-last",
            "Near grpo: it says which rollouts have a wrong step, at the place that matters least.",
            _credit(placement="last"),
        ),
        Setting(
            "control-uniform",
            "Near grpo-genorm: the number of wrong steps as a part of the rollout's reward.",
            _credit(placement="uniform"),
        ),
    ),
)

# A judge of 1, 8 and 72 times the policy's size makes a run of capo-greedy cost 1.09, 1.75 and 7.7
# times a run of grpo: for each trained token 0.69 judge tokens (measured on an earlier build), 5
# passes of the policy over 1.5 tokens, and 2 FLOPs for each token and parameter of a pass.
COMPUTE = Question(
    "compute",
    "What is the gain at equal compute?",
    (
        GRPO,
        MAJORITY,
        GREEDY,
        *(
            Setting(
                f"grpo-steps-{steps}",
                expected,
                _OUTCOME,
                served=None,
                steps=steps,
            )
            for steps, expected in (
                (35, "As grpo, within its interval, and clearly below capo-greedy."),
                (56, "Three points above grpo, and below capo-greedy."),
                (248, "Above capo-greedy of 32 steps: outcomes are enough, given time."),
            )
        ),
        *(
            Setting(
                f"grpo-rollouts-{rollouts}",
                expected,
                _OUTCOME,
                served=None,
                rollouts=rollouts,
            )
            for rollouts, expected in (
                (9, "As grpo."),
                (14, "A point above grpo: less noise, but the same number of updates."),
                (62, "Below capo-greedy: the number of updates is what limits it."),
            )
        ),
    ),
)

METHODS = ("intersection", "majority", "union", "average")
CRITIQUES = (2, 4, 8)
F1S = (0.6, 0.8, 0.95)


def vote_names(f1: float) -> Iterator[tuple[str, str, int]]:
    """(setting, method, k) of the votes of judges of one F1; `one` is a single critique."""
    prefix = f"votes-f{int(100 * f1)}"
    yield f"{prefix}-one", "one", 1
    for method in METHODS:
        for k in CRITIQUES:
            yield f"{prefix}-{method}-{k}", method, k


_VOTES_EXPECTED = {
    "one": "One critique: gains rise with F1.",
    "intersection": "At 0.6 better than one critique at k = 2 (precision up), then worse with k, "
    "as recall falls; at 0.95 as one critique.",
    "majority": "Rises with k at every F1 above one critique; best or equal best from k = 4.",
    "union": "Falls with k at 0.6: false alarms add up; at 0.95 as one critique.",
    "average": "Equal to majority at k = 8 or better: its penalty is the unbiased rate.",
}
VOTES = Question(
    "votes",
    "When does voting matter?",
    (
        GRPO,
        ORACLE,
        *(
            simulated(
                name,
                _VOTES_EXPECTED[method],
                {"precision": f1, "recall": f1},
                _credit(method="greedy" if method == "one" else method, n=k),
                seeds=3,
            )
            for f1 in F1S
            for name, method, k in vote_names(f1)
        ),
        simulated(
            "votes-f60-systematic",
            "Below one critique with independent errors of the same F1: the policy learns the "
            "judge's mistakes. All votes are equal by construction, so there is one run.",
            {"precision": 0.6, "recall": 0.6, "systematic": True},
            _credit(method="greedy"),
            seeds=3,
        ),
    ),
)

RATES = (0.3, 0.5, 0.7, 0.85, 1.0)


def errors_name(precision: float, recall: float) -> str:
    """The setting of a simulated judge with these rates."""
    return f"errors-p{int(100 * precision)}-r{int(100 * recall)}"


ERRORS = Question(
    "errors",
    "Do false alarms or misses cost more?",
    (
        GRPO,
        GREEDY,
        *(
            Setting(
                f"judge-{name}",
                f"Between grpo and capo-greedy, by its step F1 of about 0.{name[1:]}.",
                _credit(method="greedy"),
                served=Served(f"testbed-{name}"),
            )
            for name in ("f80", "f60")
        ),
        *(
            simulated(
                errors_name(precision, recall),
                "Misses cost less than false alarms: the gain falls in proportion to recall, and "
                "is gone where precision is near the share of wrong steps.",
                {"precision": precision, "recall": recall},
                _credit(method="greedy"),
                seeds=3,
            )
            for precision in RATES
            for recall in RATES
        ),
    ),
)

SEGMENTATION = Question(
    "segmentation",
    "How finely should a rollout be cut?",
    (
        GRPO,
        ORACLE,
        *(
            simulated(f"steps-{steps}", expected, {"steps": steps})
            for steps, expected in (
                ("pair", "Two points below lines: half of each penalty falls on right text."),
                ("whole", "Near grpo-genorm: a penalty for each rollout with a flaw, as in FAPO."),
                ("run", "As lines: most runs of six tokens lie in one line."),
                ("misplaced", "Below pairs: each mistake is blamed on parts of two lines."),
            )
        ),
    ),
)

_THINKING = Served("testbed-thinking", ("--set", "thinking_tokens=256"))
THINKING = Question(
    "thinking",
    "Is a judge that thinks worth its tokens?",
    (
        GRPO,
        *(
            Setting(
                f"thinking-{budget}",
                expected,
                _credit(method="greedy", thinking_tokens=budget, max_tokens=512),
                served=_THINKING,
            )
            for budget, expected in (
                (0, "Near capo-greedy: its step F1 without a thought is 0.95."),
                (256, "At most a point above thinking-0, for some ten times the judge's tokens."),
            )
        ),
    ),
)

HACKING = Question("hacking", "Does a policy learn to write easy right steps?", hacking.SETTINGS)

ADVANTAGES = Question(
    "advantages", "Which advantage should rewards become?", (GRPO, *advantages.SETTINGS)
)

QUESTIONS: tuple[Question, ...] = (
    CONTROLS,
    COMPUTE,
    VOTES,
    ERRORS,
    SEGMENTATION,
    THINKING,
    HACKING,
    ADVANTAGES,
)


def all_settings() -> dict[str, Setting]:
    """Every setting once, by name."""
    found: dict[str, Setting] = {}
    for question in QUESTIONS:
        for setting in question.settings:
            if found.setdefault(setting.name, setting) != setting:
                raise ValueError(f"two settings are called {setting.name}")
    return found
