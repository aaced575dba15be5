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
        self.cost = 0.0  # of all of them
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
        self.cost += cost
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
        """Take back an item; whether it waited there. Its turn costs nobody anything."""
        return self._discard(path, item) is not None

    def _discard(self, path: Path, item: T) -> float | None:
        """The cost of the item that was taken back; None where it did not wait."""
        found: float | None = None
        if path:
            share = self._shares.get(path[0][0])
            found = share._discard(path[1:], item) if share is not None else None
        else:
            for each in self._items:
                if each[0] is item:
                    found = each[1]
            self._items = deque(each for each in self._items if each[0] is not item)
        if found is not None:
            self.waiting -= 1
            self.cost -= found
            self._forget_idle()
        return found

    def until_served(self, path: Path, cost: float) -> float:
        """About how much is served until an item is that would be pushed now, itself included.

        At each level what waits in the same share comes before it, and of the other shares as much
        as is theirs by weight, or all if that is less.
        """
        if not path:
            return self.cost + cost
        name, weight = path[0]
        share = self._shares.get(name)
        mine = share.until_served(path[1:], cost) if share is not None else cost
        others = {n: s for n, s in self._shares.items() if s.waiting and n != name}
        rivals = sum(min(s.cost, mine * s._weight / weight) for s in others.values())
        return mine + rivals

    def _forget_idle(self) -> None:
        """An idle share is kept only as long as it has had more than others."""
        self._shares = {
            name: share
            for name, share in self._shares.items()
            if share.waiting or (self.waiting and share._served > self._clock)
        }
