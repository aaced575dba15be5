"""Criteria of a rollout: which ones are judged, the vote on each, and what they add to rewards.

The weight of a criterion is its share of the weights of all criteria that are judged, so that
rewards do not grow with the number of criteria:

    amount_c = sign_c * W_criteria * w_c / (sum of all w) * share_c

share_c in [0, 1] is the vote on whether c holds, sign_c is -1 for a pitfall and +1 for a bonus or a
requirement. Pitfalls and bonuses add their amount to the step at which they hold; requirements, and
what holds for the response as a whole, add it to every step.

With requirements alone this is the explicit aggregation of Rubrics as Rewards (arXiv 2507.17746,
eq. 1). The amounts at steps are those of SRaR (arXiv 2605.17291, eq. 3), which divides by the
number of criteria of each kind instead of by all weights.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from capo_service.core import vote_rules
from capo_service.core.verdicts.base import CriterionKind, CriterionVerdict
from capo_service.core.vote_rules import Method

_SIGNS: Mapping[CriterionKind, int] = {"pitfall": -1, "bonus": 1, "requirement": 1}

Place = int | None  # a step, or the response as a whole


@dataclass(frozen=True, slots=True)
class CriterionCount:
    """The votes on a criterion.

    Attributes:
        places: by place, the readable critiques that say that it holds there.
        valid: readable critiques.
        n_steps: critiques may name the steps 0 to `n_steps` - 1, besides the whole.
    """

    places: Mapping[Place, int] = field(default_factory=dict)
    valid: int = 0
    n_steps: int = 0

    @classmethod
    def of(cls, verdicts: Sequence[CriterionVerdict], n_steps: int) -> CriterionCount:
        """Count the verdicts of readable critiques of a rollout with `n_steps` steps."""
        places = Counter(verdict.step for verdict in verdicts if verdict.holds)
        return cls(places, len(verdicts), n_steps)

    @property
    def holds(self) -> int:
        """Readable critiques that say that it holds."""
        return sum(self.places.values())

    @property
    def place(self) -> Place:
        """Where it holds: the place that most of these name; of several, the first step."""
        return min(self.places, key=lambda p: (-self.places[p], *_order(p)), default=None)

    def share(self, method: Method) -> float:
        """The vote on whether it holds: 0 or 1, or holds/valid for `average`."""
        return vote_rules.share(method, self.holds, self.valid)

    def is_fixed(self, method: Method, remaining: int) -> bool:
        """Whether `remaining` further critiques can change neither whether it holds nor where."""
        if not vote_rules.is_fixed(method, self.holds, self.valid, remaining):
            return False
        return self.share(method) == 0.0 or self._place_is_fixed(remaining)

    def may_be_fixed(self, method: Method, size: int, remaining: int) -> bool:
        """Whether `size` of the `remaining` critiques can fix it, in the expected outcomes.

        Expected is that none of them says that it holds or, if some did before, that all of them
        do, and at the same place.
        """
        rest = remaining - size
        none = replace(self, valid=self.valid + size)
        if none.is_fixed(method, rest):
            return True
        if not self.holds:
            return False
        same = {**self.places, self.place: self.places[self.place] + size}
        return replace(none, places=same).is_fixed(method, rest)

    def _place_is_fixed(self, remaining: int) -> bool:
        """Whether no other place can become the first of those that most critiques name."""
        leader = self.place
        most = self.places[leader]
        others = [(place, count) for place, count in self.places.items() if place != leader]
        unnamed = next((step for step in range(self.n_steps) if step not in self.places), None)
        if unnamed is not None or None not in self.places:
            others.append((unnamed, 0))  # the first place that no critique has named yet
        return all(
            (-most, *_order(leader)) < (-count - remaining, *_order(place))
            for place, count in others
        )


def _order(place: Place) -> tuple[bool, int]:
    return place is None, place or 0


def kept(ids: Sequence[str], question: str, dropout: float, seed: int | None) -> list[int]:
    """The positions of the criteria that are judged: each but for a share of `dropout`.

    The choice depends on the question, the seed and the criterion's id alone, so that all rollouts
    of a question are judged by the same criteria. At least one stays.
    """
    drawn = [_draw(question, seed, name) for name in ids]
    stay = [position for position, number in enumerate(drawn) if number >= dropout]
    return stay or ([drawn.index(max(drawn))] if drawn else [])


def _draw(question: str, seed: int | None, name: str) -> float:
    """A number in [0, 1)."""
    text = f"{seed}\n{len(name)}\n{name}\n{question}".encode("utf-8", "surrogatepass")
    digest = hashlib.blake2b(text, digest_size=6, person=b"criteria").digest()
    return int.from_bytes(digest) / 2**48


@dataclass(frozen=True, slots=True)
class VotedCriterion:
    """A criterion and the vote on it.

    Attributes:
        kind: pitfall, bonus or requirement.
        weight: relative to those of the other criteria, positive.
        share: the vote on whether it holds, 0 to 1.
        step: where it holds; None: the response as a whole.
    """

    kind: CriterionKind
    weight: float
    share: float
    step: Place = None


def amounts(criteria: Sequence[VotedCriterion], w_criteria: float) -> list[float]:
    """What each criterion adds to the reward of its step, or of every step."""
    total = sum(criterion.weight for criterion in criteria)
    return [
        _SIGNS[criterion.kind] * w_criteria * (criterion.weight / total) * criterion.share
        for criterion in criteria
    ]


def rewards_by_step(
    criteria: Sequence[VotedCriterion],
    w_criteria: float,
    n_steps: int,
    barred: Collection[int] = (),
) -> list[float]:
    """What the criteria add to the reward of each step; nothing positive to `barred` steps."""
    added = [0.0] * n_steps
    for criterion, amount in zip(criteria, amounts(criteria, w_criteria), strict=True):
        steps = range(n_steps) if criterion.step is None else [criterion.step]
        for step in steps:
            if amount <= 0 or step not in barred:
                added[step] += amount
    return added
