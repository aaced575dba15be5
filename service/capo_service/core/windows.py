"""Windows: consecutive steps that are judged together, where a rollout exceeds the judge.

The prompt of a window shows the steps before it in short form.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

from capo_service.core.observations import ShownStep, calls_of

_HEAD = 120  # characters of an earlier step
_CALLER = 40  # of those, where a tool call follows
_ROUNDS = 20  # of a bisection

Bounds = tuple[int, int]  # first step, and the step after the last


@dataclass(frozen=True, slots=True)
class EarlierStep:
    """A step before a window, as templates see it, in short form on one line.

    `observation` is the beginning of what was observed after it, apart from the step's own text, so
    that no step can imitate it; empty if nothing was.
    """

    index: int
    text: str
    observation: str = ""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a prompt says about steps that are not judged in it.

    Attributes:
        earlier: the steps before, in short form.
        left_out: the number of steps before those.
        continues: whether steps follow.
        before: the observation before the first of the steps that are judged; None: there is none.
    """

    earlier: Sequence[EarlierStep] = ()
    left_out: int = 0
    continues: bool = False
    before: str | None = None

    @property
    def is_part(self) -> bool:
        """Whether there are other steps than those that are judged."""
        return bool(self.earlier or self.left_out or self.continues)


WHOLE = Surroundings()  # of a rollout that is judged as a whole


def surroundings(
    steps: Sequence[ShownStep], window: Bounds, size: int, before: str | None = None
) -> Surroundings:
    """The surroundings of a window, with at most `size` bytes of the nearest earlier steps.

    `before` is what was observed before the first step of all.
    """
    first, end = window
    earlier: list[EarlierStep] = []
    for index in range(first - 1, -1, -1):
        text, observation = summary(steps[index])
        size -= length(text) + length(observation)
        if size < 0:
            break
        earlier.append(EarlierStep(index, text, observation))
    observed = steps[first - 1].observation if first else before
    return Surroundings(earlier[::-1], first - len(earlier), end < len(steps), observed)


def summary(step: ShownStep) -> tuple[str, str]:
    """A step, of a turn with tool calls these; and what was observed. Each on one line."""
    text = head(step.text)
    if (calls := calls_of(step.text)) and len(step.text.strip()) > _HEAD:
        text = f"{head(step.text[:_CALLER])} ... {head(calls)}"
    return text, head(step.observation or "")


def head(text: str) -> str:
    """The beginning of a step, on one line."""
    text = text.strip()
    line = " ".join(text[: _HEAD + 1].split())
    return line if len(text) <= _HEAD else f"{line[:_HEAD].rstrip()} ..."


def length(text: str) -> int:
    """The length in UTF-8, which is nearer to the number of tokens than that in characters."""
    return len(text.encode("utf-8", "replace"))


def even_windows(lengths: Sequence[int], size: int, most: int) -> list[Bounds]:
    """As few windows as possible, of about equal length.

    Args:
        lengths: of the steps.
        size: maximum length of a window; one step alone may be longer.
        most: maximum steps of a window.
    """
    ends = list(accumulate(lengths))
    count = len(_fill(ends, size, most))
    even = _cut_at_shares(ends, count)
    if _longest(ends, even) <= size and max(end - first for first, end in even) <= most:
        return even
    low, high = 0, size
    for _ in range(_ROUNDS):  # the smallest size that needs no more windows
        middle = (low + high) // 2
        low, high = (middle, high) if len(_fill(ends, middle, most)) > count else (low, middle)
    return _fill(ends, high, most)


def _cut_at_shares(ends: Sequence[int], count: int) -> list[Bounds]:
    """`count` windows, each cut at the step that ends nearest to its share of the whole."""
    cuts = [0]
    for number in range(1, count):
        share = ends[-1] * number / count
        least, most = cuts[-1] + 1, len(ends) - count + number
        cut = bisect_right(ends, share, lo=least, hi=most)
        if cut > least and share - ends[cut - 2] < ends[cut - 1] - share:
            cut -= 1
        cuts.append(cut)
    return list(pairwise([*cuts, len(ends)]))


def _longest(ends: Sequence[int], windows: Sequence[Bounds]) -> int:
    return max(ends[end - 1] - (ends[first - 1] if first else 0) for first, end in windows)


def _fill(ends: Sequence[int], size: int, most: int) -> list[Bounds]:
    """Each window as long as may be, from the first step on."""
    windows: list[Bounds] = []
    first, before = 0, 0
    while first < len(ends):
        end = bisect_right(ends, before + size, lo=first, hi=min(first + most, len(ends)))
        end = max(end, first + 1)
        windows.append((first, end))
        first, before = end, ends[end - 1]
    return windows
