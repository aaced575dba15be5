"""Labelled trajectories: steps with what a tool wrote after them, for `capo eval` and for probes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import capo_wire as wire
from capo_client.cli.evaluate.examples import LabelledExample
from capo_client.cli.evaluate.formats import read
from capo_service.core.turns import turns_by_observations
from capo_service.pipeline.canary import load_canaries
from capo_service.pipeline.cutting import cut_turns
from capo_wire.labelled_steps import joined

STEPS = ["I look it up.", "It says 7.", "So the answer is 7."]
ENTRY = {"question": "q", "steps": STEPS, "wrong_steps": [1], "observations": ["8", None, None]}


def file_of(tmp_path: Path, *entries: object) -> Path:
    path = tmp_path / "data.jsonl"
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    return path


def test_observations_stand_between_the_steps(tmp_path: Path) -> None:
    _, [example], _ = read(file_of(tmp_path, ENTRY))
    assert example.wrong == (False, True, False)
    rollout = wire.Rollout.model_validate(example.rollout())
    text = "I look it up.\n\n8\n\nIt says 7.\n\nSo the answer is 7."
    assert rollout.response == text
    assert [text[a:b] for a, b in rollout.steps or ()] == STEPS
    assert [text[a:b] for a, b in rollout.observations or ()] == ["\n\n8\n\n"]


@pytest.mark.parametrize("observations", [None, [None, None, None], ["", " \n", None]])
def test_without_an_observation_it_is_a_plain_solution(
    observations: list[str | None] | None, tmp_path: Path
) -> None:
    _, [example], _ = read(file_of(tmp_path, ENTRY | {"observations": observations}))
    plain = LabelledExample("q", tuple(STEPS), (False, True, False))
    assert example == plain and example.rollout() == plain.rollout()
    assert "observations" not in example.rollout()


@pytest.mark.parametrize(
    ("observations", "reason", "detail"),
    [
        (["8"], "has observations that do not fit its steps", "has 1 items for 3 steps"),
        ([None] * 4, "has observations that do not fit its steps", "has 4 items for 3 steps"),
        ("8", "observations is not a list", None),
        ([{"text": "8"}, None, None], "observations contains an item that is not a string", None),
    ],
)
def test_observations_that_do_not_fit_are_told(
    observations: Any, reason: str, detail: str | None, tmp_path: Path
) -> None:
    _, _, [left_out] = read(file_of(tmp_path, ENTRY, ENTRY | {"observations": observations}))
    assert (left_out.entry, left_out.reason) == (2, reason)
    assert detail is None or detail in (left_out.detail or "")


def test_a_labelled_trajectory_is_a_probe(tmp_path: Path) -> None:
    good = ENTRY | {"wrong_steps": []}
    probes = load_canaries(file_of(tmp_path, ENTRY, good))
    _, examples, _ = read(file_of(tmp_path, ENTRY, good))
    sent = [wire.Rollout.model_validate(example.rollout()) for example in examples]
    assert [probe.rollout() for probe in probes] == sent
    with pytest.raises(ValueError, match="line 2: observations has 1 items for 3 steps"):
        load_canaries(file_of(tmp_path, ENTRY, good | {"observations": ["8"]}))


texts = st.text(min_size=1).filter(lambda text: bool(text.strip()))


@given(st.lists(st.tuples(texts, st.none() | texts), min_size=1, max_size=6))
def test_the_service_finds_the_steps_and_observations_again(
    parts: list[tuple[str, str | None]],
) -> None:
    steps, observations = zip(*parts, strict=True)
    text, spans, observed = joined(steps, observations)
    turns = turns_by_observations(text, observed)
    cut = cut_turns(text, turns, spans, wire.Segment(), 400)
    found = [text[a:b].strip() for turn in cut for a, b in turn]
    assert found == [step.strip() for step in steps]
    assert [text[a:b].strip() for a, b in observed] == [
        observation.strip() for observation in observations if observation
    ]
