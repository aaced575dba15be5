"""`capo check-alignment`: whether the token ids of rollouts align with their text."""

from __future__ import annotations

import json
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from capo_service.core.alignment import Alignment, align, from_offsets, token_spans
from capo_service.core.errors import InputError
from capo_service.core.steps import Span, blank_line, newline, sentence
from capo_service.core.vocabulary import TokenTable
from capo_wire.jsonlines import read_lines
from capo_wire.token_offsets import decode_with_offsets

SEGMENTERS: dict[str, Callable[[str], list[Span]]] = {
    "blank_line": blank_line,
    "newline": newline,
    "sentence": sentence,
}
_CONTEXT = 24  # characters shown before and after a difference


@dataclass(frozen=True, slots=True)
class Line:
    """The result for one rollout.

    Attributes:
        line: its number in the file, from 1.
        verdict: `exact`: its ids decode to its text. `aligned`: they do except for white space at
            the ends, special tokens, or what the tokenizer normalises. `wrong`: they do not.
        tokens: how many ids.
        steps: how many steps.
        shared: tokens that span two steps; each belongs to the one with its first non-blank
            character.
        same_by_offsets: whether offsets computed by the client put every token in the same step.
        detail: where it does not align, and the text there.
    """

    line: int
    verdict: str
    tokens: int = 0
    steps: int = 0
    shared: int = 0
    same_by_offsets: bool = True
    detail: str | None = None

    def as_json(self) -> str:
        """As one line of JSON."""
        return json.dumps(asdict(self), ensure_ascii=False)


class Checker:
    """Checks rollouts of one tokenizer.

    Args:
        name: Hugging Face name or folder.
        segment: how rollouts are split into steps, one of `SEGMENTERS`.

    Raises:
        ValueError: the tokenizer cannot be loaded.
    """

    def __init__(self, name: str, segment: str = "blank_line") -> None:
        from transformers import AutoTokenizer

        try:
            self.tokenizer: Any = AutoTokenizer.from_pretrained(name)
        except (OSError, ValueError) as error:
            reason = str(error).strip().splitlines()[0]
            raise ValueError(f"tokenizer {name!r} cannot be loaded: {reason}") from None
        self._split = SEGMENTERS[segment]
        self.table: TokenTable | None = None
        self.why_not_served: str | None = None
        try:
            data = json.loads(self.tokenizer.backend_tokenizer.to_str())
            self.table = TokenTable.from_json(name, data)
        except (ValueError, AttributeError, KeyError) as error:
            self.why_not_served = str(error)

    def lines(self, file: Path) -> Iterator[Line]:
        """Check each rollout of a JSON Lines file.

        Rollouts have `response`, `response_token_ids` or both; text without ids is encoded first.

        Raises:
            ValueError: a line is not a rollout.
        """
        try:
            for number, line in enumerate(read_lines(file), 1):
                if line.strip():
                    yield self.check(number, *_rollout(line, f"{file}, line {number}"))
        except UnicodeDecodeError as error:
            raise ValueError(f"{file} cannot be read: {error}") from None

    def summary(self, lines: Sequence[Line]) -> str:
        """A summary as text."""
        counts = Counter(line.verdict for line in lines)
        tokens, steps = sum(line.tokens for line in lines), sum(line.steps for line in lines)
        shared = sum(line.shared for line in lines)
        report = [
            f"{len(lines)} rollouts, {tokens} tokens, {steps} steps: {counts['exact']} exact, "
            f"{counts['aligned']} aligned except for white space or special tokens, "
            f"{counts['wrong']} do not align",
            f"{shared} tokens span two steps; each belongs to the step with its first non-blank "
            "character",
        ]
        if self.table is None:
            report.append(
                f"the service cannot align this tokenizer ({self.why_not_served}): send "
                "token_offsets, as the client's adapters do"
            )
        elif differ := [line.line for line in lines if not line.same_by_offsets]:
            report.append(
                "offsets computed by the client put a token into another step in lines "
                f"{', '.join(map(str, differ))}: add the tokenizer to the service (setting "
                "tokenizers) and send token ids"
            )
        else:
            report.append("token ids and token_offsets give the same steps")
        return "\n".join(report)

    def check(self, number: int, ids: list[int] | None, text: str | None) -> Line:
        """Check one rollout, by its ids, its text, or both."""
        if ids is None:
            ids = self.tokenizer.encode(text, add_special_tokens=False)
        if bad := next((i for i in ids if not 0 <= i < len(self.tokenizer)), None):
            detail = f"id {bad} is not in the vocabulary ({len(self.tokenizer)} ids)"
            return Line(number, "wrong", len(ids), detail=detail)
        spelled, spans = decode_with_offsets(self.tokenizer, ids)
        response = spelled if text is None else text
        steps = self._split(response)
        try:
            if self.table is not None:
                served = align(self.table, ids, response)
            else:
                served = _moved(spans, spelled, response)
        except InputError as error:
            where = self._difference(ids, spelled, spans, response)
            return Line(number, "wrong", len(ids), len(steps), detail=where or error.detail)
        by_offsets = True
        if spelled == response:
            mine = token_spans(from_offsets(spans, response), steps)
            by_offsets = mine == token_spans(served, steps)
        return Line(
            number,
            "exact" if spelled == response else "aligned",
            len(ids),
            len(steps),
            _shared(served, [end for _, end in steps[:-1]]),
            by_offsets,
        )

    def _difference(
        self, ids: list[int], spelled: str, spans: list[tuple[int, int]], response: str
    ) -> str | None:
        """The first position where ids and text differ, and the token there."""
        pairs = zip(spelled, response, strict=False)
        at = next(
            (place for place, (mine, theirs) in enumerate(pairs) if mine != theirs),
            min(len(spelled), len(response)),
        )
        if at == len(spelled) == len(response):
            return None
        token = next((n for n, (_, end) in enumerate(spans) if end > at), len(ids))
        where = "after the last token"
        if token < len(ids):
            start, end = spans[token]
            where = f"at token {token} (id {ids[token]}, {spelled[start:end]!r})"
        before = response[max(at - _CONTEXT, 0) : at]
        return (
            f"character {at}, {where}: after {before!r} the ids continue with "
            f"{spelled[at : at + _CONTEXT]!r} and the response continues with "
            f"{response[at : at + _CONTEXT]!r}"
        )


def _rollout(line: str, where: str) -> tuple[list[int] | None, str | None]:
    """Ids and text of a rollout, at least one of which it has."""
    try:
        rollout = json.loads(line)
        ids, text = rollout.get("response_token_ids"), rollout.get("response")
    except (ValueError, AttributeError) as error:
        raise ValueError(f"{where} is not a JSON object: {error}") from None
    if ids is None and text is None:
        raise ValueError(f"{where} has neither response nor response_token_ids")
    if text is not None and not isinstance(text, str):
        raise ValueError(f"{where}: response is not a string")
    if ids is not None and not (isinstance(ids, list) and all(type(each) is int for each in ids)):
        raise ValueError(f"{where}: response_token_ids is not a list of integers")
    return ids, text


def _moved(spans: list[tuple[int, int]], spelled: str, response: str) -> Alignment:
    """The client's offsets, moved to a text that may differ only in white space at its ends."""
    if spelled.strip() != response.strip():
        raise InputError("text and ids disagree", problem="tokens-disagree")
    shift = len(response) - len(response.lstrip()) - len(spelled) + len(spelled.lstrip())
    size = len(response)
    moved = [(min(max(a + shift, 0), size), min(max(b + shift, 0), size)) for a, b in spans]
    return from_offsets(moved, response)


def _shared(alignment: Alignment, cuts: list[int]) -> int:
    """How many tokens span the boundary between two steps."""
    return sum(
        bisect_right(cuts, start) < bisect_left(cuts, end)
        for start, end in zip(alignment.starts, alignment.ends, strict=True)
    )


def check_alignment(
    file: Annotated[
        Path,
        typer.Argument(help="Rollouts: JSON Lines with `response`, `response_token_ids` or both."),
    ],
    tokenizer: Annotated[
        str, typer.Option(help="Tokenizer of the policy: Hugging Face name or folder.")
    ],
    segment: Annotated[
        str, typer.Option(help="Where steps are split: `blank_line`, `newline` or `sentence`.")
    ] = "blank_line",
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object per rollout, and no summary.")
    ] = False,
) -> None:
    """Check that the token ids of rollouts align with their text, and show where they do not.

    Needs no service and no judge. Exits with 1 if a rollout does not align.
    """
    try:
        if segment not in SEGMENTERS:
            raise ValueError(f"--segment {segment}: use one of {', '.join(SEGMENTERS)}")
        checker = Checker(tokenizer, segment)
        found = []
        for line in checker.lines(file):
            found.append(line)
            if as_json:
                typer.echo(line.as_json())
            elif line.verdict == "wrong":
                typer.echo(f"line {line.line} does not align: {line.detail}")
    except (ValueError, OSError) as error:
        typer.secho(f"capo check-alignment: {error}", err=True, fg="red")
        raise typer.Exit(2) from None
    if not as_json:
        typer.echo(checker.summary(found))
    if any(line.verdict == "wrong" for line in found):
        raise typer.Exit(1)
