r"""Code fences and display formulas in a text, which a step is never cut inside of.

A code fence is a line that starts with ``` or ~~~, up to the next line of only that character, at
least as many. A display formula is `$$..$$`, `\[..\]` or `\begin{..}..\end{..}` of an environment
of mathematics, tables or code, and has at most `MOST_FORMULA` characters.

What is never closed is plain text: a policy that opens a fence cannot hide the rest of its response
in it. All of this takes linear time for any text.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import chain, pairwise

from capo_wire.segmentation import Span

# Two `$$` that are farther apart than this are prices, or belong to two formulas.
MOST_FORMULA = 4_000

_FENCE = re.compile(r"^[ \t]*(`{3,}|~{3,})([^\n]*)$", re.MULTILINE)
_ENVIRONMENT = (
    r"(?:equation|align|aligned|alignat|alignedat|flalign|gather|gathered|multline|multlined|"
    r"eqnarray|displaymath|math|dmath|split|(?:d|r)?cases|(?:sub)?array|[pbBvV]?(?:small)?matrix|"
    r"tabular|tikzpicture|verbatim|lstlisting|minted)\*?"
)
# `\\.`: an escaped character, such as `\$`, or the line end `\\` before `[2pt]`.
_FORMULA = re.compile(
    rf"\\begin\{{(?P<begin>{_ENVIRONMENT})\}}|\\end\{{(?P<end>{_ENVIRONMENT})\}}"
    r"|(?P<open>\\\[)|(?P<close>\\\])|\\.|(?P<dollars>\$\$)"
)


def blocks(text: str) -> list[Span]:
    """The code fences and the display formulas in a text, in order; none overlap."""
    fences = list(_fences(text))
    edges = [0, *chain.from_iterable(fences), len(text)]
    between = zip(edges[::2], edges[1::2], strict=True)
    formulas = [span for start, end in between for span in _formulas(text, start, end)]
    return sorted(fences + formulas)


def without(cuts: Sequence[int], spans: Sequence[Span]) -> list[int]:
    """The ascending positions `cuts` without those inside one of the ascending spans."""
    kept, rest = [], iter(spans)
    start, end = next(rest, (0, 0))
    for cut in cuts:
        while end <= cut and (span := next(rest, None)) is not None:
            start, end = span
        if not start < cut < end:
            kept.append(cut)
    return kept


def _fences(text: str) -> Iterator[Span]:
    lines = list(_FENCE.finditer(text))
    # By character: of this line and all later ones, the longest that may close a fence.
    longest: list[dict[str, int]] = [{"`": 0, "~": 0}]
    for line in reversed(lines):
        known = longest[-1]
        longest.append(known if line[2].strip() else _raised(known, line[1]))
    longest.reverse()
    opening: re.Match[str] | None = None
    for number, line in enumerate(lines):
        mark, rest = line[1], line[2]
        if opening is None:
            is_code = mark[0] == "~" or "`" not in rest  # else it is code within a line
            if is_code and longest[number + 1][mark[0]] >= len(mark):
                opening = line
        elif mark.startswith(opening[1]) and not rest.strip():
            yield opening.start(1), line.end()
            opening = None


def _raised(longest: dict[str, int], mark: str) -> dict[str, int]:
    return {**longest, mark[0]: max(longest[mark[0]], len(mark))}


def _formulas(text: str, start: int, end: int) -> Iterator[Span]:
    tokens = [m for m in _FORMULA.finditer(text, start, end) if m.lastgroup is not None]
    closed_by = _closings(tokens)
    number = 0
    while number < len(tokens):
        closing = closed_by.get(number)
        if closing is not None:
            span = tokens[number].start(), tokens[closing].end()
            if span[1] - span[0] <= MOST_FORMULA:
                yield span
                number = closing
        number += 1


def _closings(tokens: Sequence[re.Match[str]]) -> dict[int, int]:
    """By the position of each opening token, that of the token that closes it."""
    dollars = [at for at, token in enumerate(tokens) if token.lastgroup == "dollars"]
    found = dict(pairwise(dollars))
    begun: defaultdict[str, list[int]] = defaultdict(list)
    opened: int | None = None
    for at, token in enumerate(tokens):
        match token.lastgroup:
            case "begin":
                begun[token["begin"]].append(at)
            case "end" if begun[token["end"]]:
                found[begun[token["end"]].pop()] = at
            case "open":
                opened = at
            case "close" if opened is not None:
                found[opened] = at
                opened = None
    return found
