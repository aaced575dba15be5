"""`capo check-alignment`: whether the token ids of rollouts align with their text."""

from __future__ import annotations

import json
import sys
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

import capo_wire as wire
from capo_service.cli.checked_lines import Line, read_rollout
from capo_service.cli.conversations import TemplateError, conversation, masked_ids, rendered
from capo_service.core.alignment import Alignment, align, from_offsets
from capo_service.core.errors import InputError
from capo_service.core.steps import Span
from capo_service.core.turns import (
    Turn,
    tokens_of_steps,
    turns_by_mask,
    turns_by_observations,
)
from capo_service.core.vocabulary import TokenTable
from capo_service.pipeline.cutting import cut_turns
from capo_wire.jsonlines import read_lines
from capo_wire.token_offsets import decode_with_offsets

SEGMENTERS: tuple[wire.SegmentMethod, ...] = (
    "blank_line",
    "newline",
    "sentence",
    "turn",
    "turn_blank_line",
)
_CONTEXT = 24  # characters shown before and after a difference


class Checker:
    """Checks rollouts of one tokenizer.

    Args:
        name: Hugging Face name or folder.
        segment: how rollouts are split into steps, one of `SEGMENTERS`. Default: `turn` for
            trajectories, else `blank_line`.

    Raises:
        ValueError: the tokenizer cannot be loaded.
    """

    def __init__(self, name: str, segment: wire.SegmentMethod | None = None) -> None:
        from transformers import AutoTokenizer

        try:
            self.tokenizer: Any = AutoTokenizer.from_pretrained(name)
        except (OSError, ValueError) as error:
            reason = str(error).strip().splitlines()[0]
            raise ValueError(f"tokenizer {name!r} cannot be loaded: {reason}") from None
        self._segment = wire.Segment(method=segment)
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
        Trajectories have `response_mask` or `observations` too, or they are chat turns, which the
        tokenizer's chat template writes.

        Raises:
            ValueError: a line is not a rollout.
        """
        try:
            for number, line in enumerate(read_lines(file), 1):
                if line.strip():
                    yield self._line(number, read_rollout(line, f"{file}, line {number}"))
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
        if others := sum(line.others for line in lines):
            turns = sum(line.turns for line in lines)
            report.append(
                f"{turns} turns, and {others} tokens that the policy did not sample: no step has "
                "one of these, and every other token is in exactly one step"
            )
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

    def _line(self, number: int, rollout: Mapping[str, Any]) -> Line:
        ids, text = rollout.get("response_token_ids"), rollout.get("response")
        mask = rollout.get("response_mask")
        try:
            if ids is None and text is None:
                turns = conversation(rollout) or []
                whole, begin, own = rendered(self.tokenizer, turns, rollout.get("tools"))
                ids, mask = masked_ids(self.tokenizer, whole, begin, own)
            elif ids is None and text is not None and rollout.get("observations"):
                turns_ = turns_by_observations(text, rollout["observations"])
                own = [turn.span for turn in turns_]
                ids, mask = masked_ids(self.tokenizer, text, 0, own)
        except TemplateError as error:
            return Line(number, "wrong", detail=str(error))
        except InputError as error:
            return Line(number, "wrong", detail=error.detail)
        return self.check(number, ids, text, mask)

    def check(
        self, number: int, ids: list[int] | None, text: str | None, mask: list[int] | None = None
    ) -> Line:
        """Check one rollout, by its ids, its text, or both.

        `mask`: for each id, whether the policy sampled it; None if it sampled all of them.
        """
        if ids is None:
            ids = self.tokenizer.encode(text, add_special_tokens=False)
        mask = [1] * len(ids) if mask is None else mask
        if len(mask) != len(ids):
            detail = f"response_mask has {len(mask)} numbers for {len(ids)} ids: one for each"
            return Line(number, "wrong", len(ids), detail=detail)
        if ids and not any(mask):
            return Line(number, "wrong", len(ids), detail="response_mask is 0 for every id")
        if bad := next((i for i in ids if not 0 <= i < len(self.tokenizer)), None):
            detail = f"id {bad} is not in the vocabulary ({len(self.tokenizer)} ids)"
            return Line(number, "wrong", len(ids), detail=detail)
        spelled, spans = decode_with_offsets(self.tokenizer, ids)
        response = spelled if text is None else text
        try:
            if self.table is not None:
                served = align(self.table, ids, response)
            else:
                served = _moved(spans, spelled, response)
        except InputError as error:
            where = self._difference(ids, spelled, spans, response)
            return Line(number, "wrong", len(ids), detail=where or error.detail)
        turns, steps, found = self._steps(served, mask)
        if twice := _not_in_one_step(found, mask):
            return Line(number, "wrong", len(ids), len(steps), detail=twice)
        by_offsets = True
        if spelled == response:
            by_offsets = self._steps(from_offsets(spans, response), mask)[2] == found
        edges = {edge for span in steps for edge in span} - {0, len(response)}
        return Line(
            number,
            "exact" if spelled == response else "aligned",
            len(ids),
            len(steps),
            _shared(served, sorted(edges)),
            by_offsets,
            turns=turns,
            others=mask.count(0),
        )

    def _steps(self, aligned: Alignment, mask: list[int]) -> tuple[int, list[Span], list[Span]]:
        """As in the service: the number of turns, and the characters and tokens of the steps."""
        turns = turns_by_mask(aligned, mask) or [Turn((0, len(aligned.text)), (0, len(aligned)))]
        by_turn = cut_turns(aligned.text, turns, None, self._segment, sys.maxsize)
        spans = [span for part in by_turn for span in part]
        return len(turns), spans, tokens_of_steps(aligned, turns, by_turn)

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


def _not_in_one_step(spans: Sequence[Span], mask: Sequence[int]) -> str | None:
    """A token of the policy that is not in exactly one step, or another one that is in a step."""
    counts = [0] * len(mask)
    for start, end in spans:
        for token in range(start, end):
            counts[token] += 1
    for token, (count, own) in enumerate(zip(counts, mask, strict=True)):
        if count != own:
            whose = "the policy's" if own else "not the policy's"
            return f"token {token} is {whose} and in {count} steps"
    return None


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
        typer.Argument(
            help="Rollouts: JSON Lines with `response`, `response_token_ids` or both, of "
            "trajectories also `response_mask`; or conversations: `messages`, `response_turns`."
        ),
    ],
    tokenizer: Annotated[
        str, typer.Option(help="Tokenizer of the policy: Hugging Face name or folder.")
    ],
    segment: Annotated[
        str | None,
        typer.Option(
            help=f"Where steps are split: {', '.join(f'`{each}`' for each in SEGMENTERS)}.",
            show_default="turn for trajectories, else blank_line",
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object per rollout, and no summary.")
    ] = False,
) -> None:
    """Check that the token ids of rollouts align with their text, and show where they do not.

    Of trajectories it also checks that every token of the policy is in exactly one step, and no
    other token is. Conversations are written by the tokenizer's chat template.

    Needs no service and no judge. Exits with 1 if a rollout does not align.
    """
    try:
        method = next((each for each in SEGMENTERS if each == segment), None)
        if segment is not None and method is None:
            raise ValueError(f"--segment {segment}: use one of {', '.join(SEGMENTERS)}")
        checker = Checker(tokenizer, method)
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
