"""Whose turn it is: shares of the judge, by weight and in tokens, in a tree.

Start-time fair queueing (Goyal, Vin and Cheng, 1996) at every level: what has been served least,
for its weight, comes next. Who was idle begins where the others are, and saves nothing up.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Generic, TypeVar

T = TypeVar("T")

Path = Sequence[tuple[str, float]]  # (name, weight) of a share, from the root down


class Share(Generic[T]):
    """A share of the turns: items that wait in their order, or smaller shares."""

    def __init__(self, weight: float = 1.0) -> None:
        self.waiting = 0  # items, those of smaller shares included
        self._weight = weight
        self._served = 0.0  # tokens for the weight, on the clock of the share above
        self._clock = 0.0
        self._items: deque[tuple[T, float]] = deque()
        self._shares: dict[str, Share[T]] = {}

    def push(self, path: Path, item: T, cost: float) -> None:
        """Let an item wait in the share at the end of `path`.

        Args:
            path: its shares; those that are not there are made.
            item: what waits.
            cost: tokens, above 0.
        """
        self.waiting += 1
        if not path:
            self._items.append((item, cost))
            return
        name, weight = path[0]
        share = self._shares.get(name)
        if share is None:
            share = self._shares[name] = Share(weight)
        if not share.waiting:
            share._served = max(share._served, self._clock)
        share.push(path[1:], item, cost)

    def pop(self) -> T:
        """The item whose turn it is.

        Raises:
            IndexError: nothing waits.
        """
        return self._pop()[0]

    def _pop(self) -> tuple[T, float]:
        if not self.waiting:
            raise IndexError("nothing waits")
        self.waiting -= 1
        if self._items:
            return self._items.popleft()
        share = min((s for s in self._shares.values() if s.waiting), key=lambda s: s._served)
        self._clock = share._served
        item, cost = share._pop()
        share._served += cost / share._weight
        self._forget_idle()
        return item, cost

    def discard(self, path: Path, item: T) -> bool:
        """Take back an item; whether it waited there. Its turn costs nobody anything."""
        if path:
            share = self._shares.get(path[0][0])
            found = share is not None and share.discard(path[1:], item)
        else:
            kept = deque(each for each in self._items if each[0] is not item)
            found = len(kept) < len(self._items)
            self._items = kept
        if found:
            self.waiting -= 1
            self._forget_idle()
        return found

    def _forget_idle(self) -> None:
        """An idle share is kept only as long as it has had more than others."""
        self._shares = {
            name: share
            for name, share in self._shares.items()
            if share.waiting or (self.waiting and share._served > self._clock)
        }
