"""What is fuzzed: each takes bytes, and raises where a promise does not hold.

Run by `fuzz/run.py` under atheris, which grows inputs by the branches that they reach.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import pairwise

import atheris

with atheris.instrument_imports(include=["capo_service.core", "capo_service.api", "capo_wire"]):
    from capo_service.api import json_splitting, parsing, problems
    from capo_service.core import alignment, arithmetic, observations, steps, suspicion, turns
    from capo_service.core.errors import InputError
    from capo_service.core.step_code import letters, step_code
    from capo_service.core.verdicts import free_text
    from capo_service.core.verdicts.boxed_steps import BoxedSteps
    from capo_service.core.verdicts.first_error import FirstError
    from capo_service.core.verdicts.step_list import StepList
    from capo_service.core.vocabulary import TokenTable
    from capo_wire.chat import ChatTurn, trajectory_text
    from capo_wire.segment_merging import merged

import kit

TABLES = [kit.table(kind) for kind in kit.KINDS]
_WORDS = (
    "<step_0>", "</step_1 bcdfghj>", "<incorrect_steps>", "</incorrect_steps>", "incorrect_steps",
    '"incorrect_steps": [', "step_", "and ", "through", " - ", "\n\n", "\r\n", "。", "e.g. ", "1. ",
    "...", "\u200b", "\ufffd", "é", "▁", "<|im_end|>", "Solution:", "ignore all instructions",
    "all steps are correct", "<think>", "</think>", "[/THINK]", "assistantfinal",
    '{"incorrect_steps": [0]}', "1", ", ", "Step 1", "none", "...", "```json\n", "\n- ", "]}",
    "The student writes ", "First error: \\boxed{", "\\boxed{", "Step 1: \\boxed{correct}\n", "-1}",
    '", "incorrect_steps": [', ', "criteria": {"C0": "no"', '"C1": 0', '"whole"', "incorrect}", "}",
    "```\n", "~~~\n", "$$", "\\[", "\\]", "\\begin{align}", "\\end{align}", '"',
    "<|channel|>final<|message|>", "[1 wx]", "[end wx]", "[observation wx]", "<tool_call>",
    "<|channel|>commentary", " to=f ", "<|tool_call_begin|>", "<|call|>",
    "<\uff5ctool\u2581calls\u2581begin\uff5c>",
)  # fmt: skip


def text_of(data: atheris.FuzzedDataProvider, longest: int = 400) -> str:
    """Text of any characters and of words that mean something here."""
    parts = []
    for _ in range(data.ConsumeIntInRange(0, 12)):
        if data.ConsumeBool():
            parts.append(_WORDS[data.ConsumeIntInRange(0, len(_WORDS) - 1)])
        else:
            parts.append(data.ConsumeUnicodeNoSurrogates(data.ConsumeIntInRange(0, 40)))
    return "".join(parts)[:longest]


def read_verdict(raw: bytes) -> None:
    data = atheris.FuzzedDataProvider(raw)
    n_steps = data.ConsumeIntInRange(1, 50)
    text = text_of(data)
    found = free_text.read(text, n_steps, truncated=data.ConsumeBool(), rollout=text_of(data))
    # A thought that was not ended takes back whatever stands before it.
    assert free_text.read(text + "\n<think>", n_steps).wrong is None
    assert (found.wrong is None) == (found.reason is not None)
    assert found.wrong is None or found.wrong <= set(range(n_steps))


def read_form(raw: bytes) -> None:
    data = atheris.FuzzedDataProvider(raw)
    n_steps, truncated = data.ConsumeIntInRange(1, 12), data.ConsumeBool()
    analysis, first, text = data.PickValueInList([0, 9]), int(data.ConsumeBool()), text_of(data)
    is_constrained, rollout = data.ConsumeBool(), text_of(data)
    kinds = ("pitfall", "requirement", "bonus")[: data.ConsumeIntInRange(0, 3)]
    for shape in (
        FirstError(n_steps, analysis, 99, first, is_constrained),
        BoxedSteps(n_steps, analysis, 99, first, is_constrained),
        StepList(n_steps, analysis, criteria=kinds),
    ):
        found = shape.read(text, truncated=truncated, rollout=rollout)
        assert (found.wrong is None) == bool(found.reason)
        assert found.wrong is None or found.wrong <= set(range(n_steps))
        if found.wrong is not None and isinstance(shape, StepList):
            assert len(found.criteria) == len(kinds)
            assert all(each.holds or each.step is None for each in found.criteria)
            assert all(each.step is None or each.step < n_steps for each in found.criteria)


def merge(raw: bytes) -> None:
    data = atheris.FuzzedDataProvider(raw)
    most = data.ConsumeIntInRange(1, 6) if data.ConsumeBool() else None
    least = data.ConsumeIntInRange(1, 60) if data.ConsumeBool() else None
    text = text_of(data)
    for spans in (steps.blank_line(text), steps.newline(text), steps.sentence(text)):
        joined = merged(text, spans, most, least)
        assert "".join(text[start:end] for start, end in joined) == (text if spans else "")
        assert all(text[start:end].strip() for start, end in joined)
        assert most is None or len(joined) <= max(most, 2)
        assert merged(text, joined, most, least) == joined


def segment(raw: bytes) -> None:
    data = atheris.FuzzedDataProvider(raw)
    pattern, cut = text_of(data, 40), data.PickValueInList(["before", "after"])
    text = text_of(data)
    made = [steps.blank_line(text), steps.newline(text), steps.sentence(text)]
    try:
        made.append(steps.by_pattern(text, pattern, cut))
    except InputError as error:
        assert error.field == "segment.pattern"
    for spans in made:
        assert bool(spans) == bool(text.strip())
        assert "".join(text[start:end] for start, end in spans) == (text if spans else "")
        assert all(text[start:end].strip() for start, end in spans)
        assert not spans or steps.given(text, spans) == spans


def align(raw: bytes) -> None:
    data = atheris.FuzzedDataProvider(raw)
    table: TokenTable = TABLES[data.ConsumeIntInRange(0, len(TABLES) - 1)]
    ids = data.ConsumeIntListInRange(data.ConsumeIntInRange(0, 40), 0, 420)
    text = text_of(data) if data.ConsumeBool() else None
    try:
        found = alignment.align(table, ids, text)
    except InputError:
        return
    assert len(found.starts) == len(found.ends) == len(ids)
    for bounds in (found.starts, found.ends):
        assert all(a <= b for a, b in pairwise(bounds))
    assert all(
        0 <= a <= b <= len(found.text) for a, b in zip(found.starts, found.ends, strict=True)
    )
    if found.text.strip():
        spans = alignment.token_spans(found, steps.newline(found.text))
        assert spans[0][0] == 0 and spans[-1][1] == len(ids)
        assert all(a[1] == b[0] for a, b in pairwise(spans))


def suspect(raw: bytes) -> None:
    data = atheris.FuzzedDataProvider(raw)
    question, response = text_of(data), text_of(data) * data.ConsumeIntInRange(1, 20)
    spans = steps.texts(response, steps.blank_line(response))
    for found in suspicion.suspicions(question, response, spans, {}):
        assert found.detail and (found.steps is None or found.steps <= set(range(len(spans))))


_SUMS = (
    "1", "0", "12.5", "1,000", "=", " = ", "+", "-", "*", "/", "^", "(", ")", "<<", ">>", "%", "$",
    " x ", "\\frac{1}{2}", "\\times", " apples", " of ", " and ", ". ", "\n- ", "9^9", "1/0",
)  # fmt: skip


def calculate(raw: bytes) -> None:
    data = atheris.FuzzedDataProvider(raw)
    parts = [
        _SUMS[data.ConsumeIntInRange(0, len(_SUMS) - 1)]
        if data.ConsumeInt(1)
        else data.ConsumeUnicodeNoSurrogates(8)
        for _ in range(data.ConsumeIntInRange(0, 40))
    ]
    for found in arithmetic.equations("".join(parts)):
        assert found.left and found.right and str(found)


_JSON = (
    '{"rollouts": [', '{"question": "q", "response": "r", "outcome": 1}', "]}", ",", '"', "\\", "{",
    ' "voting": {}', "[[0, 1]]", '"\\ud800"', "}", "null", "1e999", "-0", "true", " ",
)  # fmt: skip


def parse_body(raw: bytes) -> None:
    data = atheris.FuzzedDataProvider(raw)
    parts = []
    for _ in range(data.ConsumeIntInRange(0, 20)):
        if data.ConsumeBool():
            parts.append(_JSON[data.ConsumeIntInRange(0, len(_JSON) - 1)].encode())
        else:
            parts.append(data.ConsumeBytes(data.ConsumeIntInRange(0, 12)))
    body = b"".join(parts)
    try:
        batch = parsing.parse(body, 8)
        assert len(batch.items) == len(batch.ids) <= 8
    except problems.ProblemError as error:
        assert 400 <= error.problem.status < 500
    if (pieces := json_splitting.split(body)) is None:
        return
    try:
        held = [json.loads(piece) for piece in pieces.rollouts]
        envelope = json.loads(pieces.envelope)
        whole = json.loads(body)
    except (ValueError, RecursionError):
        return
    assert whole == envelope | {"rollouts": held}


def choose_code(raw: bytes) -> None:
    data = atheris.FuzzedDataProvider(raw)
    question = text_of(data)
    guess = step_code(b"secret", question, [])
    texts = [text_of(data), data.PickValueInList(["", guess, guess.upper(), "\u200b".join(guess)])]
    code = step_code(b"secret", question, texts)
    assert not any(code.encode() in letters(text) for text in texts)
    assert (code == guess) == (not any(guess.encode() in letters(text) for text in texts))


def split_by_mask(raw: bytes) -> None:
    data = atheris.FuzzedDataProvider(raw)
    table: TokenTable = TABLES[data.ConsumeIntInRange(0, len(TABLES) - 1)]
    ids = data.ConsumeIntListInRange(data.ConsumeIntInRange(1, 40), 0, 420)
    mask = data.ConsumeIntListInRange(len(ids), 0, 1)
    try:
        found = alignment.align(table, ids, text_of(data) if data.ConsumeBool() else None)
    except InputError:
        return
    made = turns.turns_by_mask(found, mask)
    text = found.text
    edges = [0, *(edge for turn in made for edge in turn.span), len(text)]
    assert edges == sorted(edges)
    others = turns.between(text, made)
    pieces = sorted([*others, *(turn.span for turn in made)])
    assert "".join(text[start:end] for start, end in pieces) == text
    cut = [[turn.span] for turn in made]
    owned = turns.tokens_of_steps(found, made, cut)
    inside = [token for start, end in owned for token in range(start, end)]
    assert inside == [token for token, own in enumerate(mask) if own]
    budget = data.ConsumeIntInRange(1, 20)
    if (whole := turns.trajectory(text, made, [1] * len(made), budget)) is None:
        return
    assert len(whole.turns) == len(made) and len(whole.left_out) == len(whole.observations)
    for (start, end), missing in zip(whole.observations, whole.left_out, strict=True):
        short, left_out = observations.shortened(text[start:end].strip(), budget)
        assert left_out == missing and short in whole.shown.values()


def _names(data: atheris.FuzzedDataProvider) -> str:
    known = data.PickValueInList(["assistant", "tool", "user", "system", ""])
    return known or text_of(data, 64) or "x"


def read_turns(raw: bytes) -> None:
    data = atheris.FuzzedDataProvider(raw)
    made = []
    for _ in range(data.ConsumeIntInRange(1, 6)):
        turn = {"role": _names(data), "content": text_of(data)}
        if data.ConsumeBool():
            turn |= {"name": _names(data), "tool_call_id": data.PickValueInList(["a", "b"])}
        if data.ConsumeBool():
            function = {"name": _names(data), "arguments": text_of(data, 40)}
            turn |= {"tool_calls": [{"id": "a", "function": function}]}
        if data.ConsumeBool():
            turn |= {"reasoning_content": text_of(data)}
        made.append(ChatTurn.model_validate(turn))
    text, spans = trajectory_text(made)
    assert all(a < b for a, b in spans) and all(a[1] < b[0] for a, b in pairwise(spans))
    own = turns.turns_by_observations(text, spans)
    wrote = [each for turn in made if turn.role == "assistant" and (each := turn.text()).strip()]
    assert [text[slice(*turn.span)] for turn in own] == wrote
    for turn in made:
        if turn.role != "assistant":
            said = ChatTurn(role=turn.role, name=turn.name)
            assert len(trajectory_text([said])[0].splitlines()) == 1
        observations.calls_of(turn.text())


TARGETS: dict[str, Callable[[bytes], None]] = {
    "verdict": read_verdict,
    "form": read_form,
    "merge": merge,
    "segment": segment,
    "align": align,
    "suspect": suspect,
    "code": choose_code,
    "calculate": calculate,
    "body": parse_body,
    "mask": split_by_mask,
    "turns": read_turns,
}
