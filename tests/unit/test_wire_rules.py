"""Rules that client and service share in capo_wire: errors, options, thoughts, steps, questions."""

from __future__ import annotations

import subprocess
import sys

import pytest
from pydantic import ValidationError

import capo_wire as wire
from capo_wire.aggregate import agreement
from capo_wire.assignments import parse_pairs
from capo_wire.segmentation import blank_line_steps
from capo_wire.special_text import END_TOKENS, after_thoughts, content_end, without_thought_markers
from capo_wire.validation import first_error


@pytest.mark.parametrize(
    ("fields", "field", "sentence"),
    [
        ({"question": "q", "response": 1}, "response", "response: Input should be a valid string"),
        ({"question": "q", "response": "a", "x": 1, "y": 2}, "x", "x: unknown field (and 1 more)"),
        (
            {"question": "q", "response": "a", "steps": [[0, 1], [1, -2]]},
            "steps[1][1]",
            "steps[1][1]: Input should be greater than or equal to 0",
        ),
        ({"response": "a"}, None, "give exactly one of question and messages"),
    ],
)
def test_the_first_error_is_a_sentence(
    fields: dict[str, object], field: str | None, sentence: str
) -> None:
    with pytest.raises(ValidationError) as caught:
        wire.Rollout.model_validate(fields)
    assert first_error(caught.value) == (field, sentence)


def test_pairs_are_json_where_they_can_be() -> None:
    given = ["a=1", " b-c = text ", 'd={"e": [1]}', "f=x=y", "g="]
    expected = {"a": 1, "b_c": "text", "d": {"e": [1]}, "f": "x=y", "g": ""}
    assert parse_pairs(given, "--set") == expected and parse_pairs(None, "--set") == {}
    with pytest.raises(ValueError, match="--set oops: write NAME=VALUE"):
        parse_pairs(["oops"], "--set")


@pytest.mark.parametrize("token", END_TOKENS)
def test_end_of_turn_tokens_are_cut_from_the_end_alone(token: str) -> None:
    text = f"a {token} b"
    for ending in ("", token, f" {token.upper()}\n{token} "):
        assert text[: content_end(text + ending)] == text
    assert content_end(text + token, ["<other>", ""]) == len(text + token)
    assert content_end(token) == content_end("") == 0


@pytest.mark.parametrize("count", [1, 200_000])
def test_end_of_turn_tokens_take_linear_time(count: int) -> None:
    assert content_end("a" + "</s> <pad>" * count) == 1
    assert content_end("</s" * count) == 3 * count


def test_quoted_markers_are_no_thoughts() -> None:
    assert after_thoughts("The tag `<think>` begins it.") == "The tag `<think>` begins it."
    assert after_thoughts("<think>a</think>b") == "b" and after_thoughts("a</think>b") == "b"
    assert after_thoughts("a</think>b<think>") is None
    assert without_thought_markers("<think>a</think>b") == "\na\nb"


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_steps_have_no_blanks_around_them_whatever_ends_a_line(end: str) -> None:
    text = f"{end} one{end}more {end}{end}{end}  two{end}"
    assert blank_line_steps(text) == [f"one{end}more", "two"]
    assert blank_line_steps(f"{end} {end}") == []


def test_a_question_is_one_text() -> None:
    def of(**fields: object) -> str:
        return wire.Rollout.model_validate({"response": "a", **fields}).prompt_text()

    parts = [{"type": "text", "text": "1+"}, {"type": "text", "text": "1?"}]
    assert of(question="q") == of(messages=[{"role": "user", "content": "q"}]) == "q"
    assert of(messages=[{"role": "user", "content": parts}]) == "1+1?"
    turns = [{"role": "system", "content": "s"}, {"role": "user", "content": "q"}]
    assert of(messages=turns) == "system: s\n\nuser: q"
    assert of(messages=turns[:1]) == "system: s"


def test_agreement_is_the_mean_share_of_the_larger_side() -> None:
    def step(wrong: int, valid: int) -> wire.Step:
        votes = wire.Votes(wrong=wrong, valid=valid, asked=4)
        return wire.Step(
            index=0, span=(0, 1), token_span=None, wrong=False, penalty=0, votes=votes, reward=0
        )

    assert agreement([step(0, 4), step(1, 4), step(3, 4), step(2, 4)]) == 0.75
    assert agreement([step(0, 4), step(0, 1)]) is None and agreement([]) is None


def test_models_are_imported_at_their_first_use() -> None:
    code = (
        "import sys, capo_wire, capo_wire.answers.compare, capo_wire.token_offsets\n"
        "before = 'pydantic' in sys.modules\n"
        "assert all(hasattr(capo_wire, name) for name in capo_wire.__all__)\n"
        "from capo_wire import Rollout\n"
        "print(before, 'pydantic' in sys.modules, hasattr(capo_wire, 'Nothing'))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.split() == ["False", "True", "False"]


def test_the_wire_shows_its_models_before_their_first_use() -> None:
    code = "import capo_wire; print(set(capo_wire.__all__) <= set(dir(capo_wire)))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout == "True\n"
