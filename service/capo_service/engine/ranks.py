"""Which data-parallel rank of vLLM gets a critique.

Each rank has a prefix cache of its own. vLLM's own choice, the rank with the fewest requests,
spreads the critiques of a rollout over all ranks, and each of them computes its prompt.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager

_GROUPS = 1 << 16  # remembered; a question that was forgotten gets a rank as a new one does


class RankRouter:
    """Keeps prompts of one group, which share their beginning, on one rank.

    A new group goes to the rank with the fewest critiques in flight, and stays there. A hash of
    the group would need no memory, but would place 64 questions on 8 ranks so unevenly that the
    fullest has about half more than its share. A group moves only when its rank has more critiques
    than the least loaded one by as many as a rank samples at once: then critiques wait here while
    there is room there, and computing the shared beginning once more costs less than waiting.

    Args:
        ranks: number of ranks.
        slots: critiques that a rank samples at once.
    """

    def __init__(self, ranks: int, slots: int) -> None:
        self._loads = [0] * ranks
        self._routed = [0] * ranks
        self._slots = slots
        self._ranks: OrderedDict[int, int] = OrderedDict()  # least recently used first

    @contextmanager
    def route(self, group: int) -> Iterator[int | None]:
        """The rank for one critique, while it is sampled; None where there is only one."""
        if len(self._loads) == 1:
            yield None
            return
        rank = self._choose(group)
        self._loads[rank] += 1
        self._routed[rank] += 1
        try:
            yield rank
        finally:
            self._loads[rank] -= 1

    def _choose(self, group: int) -> int:
        loads = self._loads
        # Among idle ranks the one that had the fewest, or all questions of a quiet time would stay
        # on the first.
        least = min(range(len(loads)), key=lambda rank: (loads[rank], self._routed[rank]))
        rank = self._ranks.get(group, least)
        if loads[rank] - loads[least] >= self._slots:
            rank = least
        self._ranks[group] = rank
        self._ranks.move_to_end(group)
        if len(self._ranks) > _GROUPS:
            self._ranks.popitem(last=False)
        return rank
