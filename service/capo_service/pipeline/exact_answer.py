"""What the wire says of exact votes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence

import capo_wire as wire
from capo_service.core.exact_votes import ExactVotes
from capo_service.pipeline.critics import Ballot
from capo_service.pipeline.prepared import Prepared

_LEAST_SHARE = 1e-4  # of a verdict in the answer


def exact_votes(ballots: Sequence[Ballot]) -> dict[int, ExactVotes]:
    """The exact votes on each window; empty if the votes were sampled."""
    return {ballot.window: ballot.exact for ballot in ballots if ballot.exact is not None}


def exact_critiques(prepared: Prepared, votes: Mapping[int, ExactVotes]) -> Iterator[wire.Critique]:
    """Each verdict that was read, the likeliest of each window first."""
    for number, exact in sorted(votes.items()):
        window = prepared.windows[number]
        first = window.first_step
        bounds = (first, first + len(window.spans)) if prepared.parts else None
        for wrong, share in sorted(exact.verdicts.items(), key=lambda each: -each[1]):
            if share < _LEAST_SHARE:
                continue
            yield wire.Critique(
                text=json.dumps({"incorrect_steps": sorted(wrong)}),
                wrong_steps=sorted(first + step for step in wrong),
                valid=True,
                finish_reason="stop",
                share=share,
                window=number,
                judged_steps=bounds,
            )


def exact_reading(votes: Mapping[int, ExactVotes]) -> wire.ExactReading | None:
    """How complete the votes are; None if they were sampled."""
    if not votes:
        return None
    return wire.ExactReading(
        decided=all(each.decided for each in votes.values()),
        unread=max(max(1 - sum(each.verdicts.values()), 0.0) for each in votes.values()),
    )
