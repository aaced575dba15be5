"""A fair queue: shares of the judge's tokens, by weight, in a tree.

Start-time fair queueing (Goyal, Vin and Cheng, 1996) at every level: the share that was served
least for its weight comes next. A share that was idle starts level with the others; idle time
earns no credit.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Generic, TypeVar

T = TypeVar("T")

Path = Sequence[tuple[str, float]]  # (name, weight) of a share, from the root down


class QueueShare(Generic[T]):
    """A node of the tree: items in first-in-first-out order, or smaller shares."""

    def __init__(self, weight: float = 1.0) -> None:
        self.waiting = 0  # items, those of smaller shares included
        self.cost = 0.0  # of all of them, in tokens
        self._weight = weight
        self._served = 0.0  # tokens per unit of weight, on the clock of the parent
        self._clock = 0.0
        self._items: deque[tuple[T, float]] = deque()
        self._shares: dict[str, QueueShare[T]] = {}

    def push(self, path: Path, item: T, cost: float) -> None:
        """Append an item to the share at the end of `path`.

        Args:
            path: missing shares on it are created.
            item: what waits.
            cost: tokens, above 0.
        """
        self.waiting += 1
        self.cost += cost
        if not path:
            self._items.append((item, cost))
            return
        name, weight = path[0]
        share = self._shares.get(name)
        if share is None:
            share = self._shares[name] = QueueShare(weight)
        if not share.waiting:
            share._served = max(share._served, self._clock)
        share.push(path[1:], item, cost)

    def pop(self) -> T:
        """Remove and return the next item.

        Raises:
            IndexError: the queue is empty.
        """
        return self._pop()[0]

    def _pop(self) -> tuple[T, float]:
        if not self.waiting:
            raise IndexError("the queue is empty")
        self.waiting -= 1
        if self._items:
            item, cost = self._items.popleft()
            self.cost -= cost
            return item, cost
        share = min((s for s in self._shares.values() if s.waiting), key=lambda s: s._served)
        self._clock = share._served
        item, cost = share._pop()
        self.cost -= cost
        share._served += cost / share._weight
        self._forget_idle()
        return item, cost

    def discard(self, path: Path, item: T) -> bool:
        """Remove an item without charging its share; whether it was there."""
        return self._discard(path, item) is not None

    def _discard(self, path: Path, item: T) -> float | None:
        """The cost of the removed item; None where it was not there."""
        removed: float | None = None
        if path:
            share = self._shares.get(path[0][0])
            removed = share._discard(path[1:], item) if share is not None else None
        else:
            for waiting, cost in self._items:
                if waiting is item:
                    removed = cost
            self._items = deque(entry for entry in self._items if entry[0] is not item)
        if removed is not None:
            self.waiting -= 1
            self.cost -= removed
            self._forget_idle()
        return removed

    def until_served(self, path: Path, cost: float) -> float:
        """Estimate the tokens served until an item pushed now would be, itself included.

        At each level the items of the same share come first, and of every other share as much as
        its weight gives it meanwhile, or all of it if that is less.
        """
        if not path:
            return self.cost + cost
        name, weight = path[0]
        share = self._shares.get(name)
        own = share.until_served(path[1:], cost) if share is not None else cost
        others = {n: s for n, s in self._shares.items() if s.waiting and n != name}
        return own + sum(min(s.cost, own * s._weight / weight) for s in others.values())

    def _forget_idle(self) -> None:
        """Drop idle shares, except those that were served more than the others."""
        self._shares = {
            name: share
            for name, share in self._shares.items()
            if share.waiting or (self.waiting and share._served > self._clock)
        }
