"""What adapters share, without any framework."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from capo_client.adapters.advantages import pass_advantages, token_advantages
from capo_client.adapters.requirement import require
from capo_trainer import algorithm
from capo_wire.answers import response_of


@given(data=st.data())
def test_advantages_are_those_of_the_trainer(data: st.DataObject) -> None:
    rows = data.draw(st.integers(1, 5))
    width = data.draw(st.integers(1, 6))
    numbers = st.lists(st.sampled_from([2.0, 1.0, 0.0, -1.0]), min_size=width, max_size=width)
    rewards = torch.tensor([data.draw(numbers) for _ in range(rows)])
    flags = st.lists(st.booleans(), min_size=width, max_size=width)
    mask = torch.tensor([data.draw(flags) for _ in range(rows)])
    groups = [data.draw(st.sampled_from("ab")) for _ in range(rows)]
    found = token_advantages(rewards, mask, groups)
    numbered = torch.tensor([ord(group) for group in groups])
    expected = algorithm.advantages(torch.zeros(rows), rewards, mask, numbered)
    torch.testing.assert_close(found, expected)


@given(data=st.data())
def test_pass_is_that_of_the_trainer(data: st.DataObject) -> None:
    rows = data.draw(st.integers(1, 5))
    width = data.draw(st.integers(0, 6))
    numbers = st.lists(st.sampled_from([0.0, -0.5, -1.0]), min_size=width, max_size=width)
    flags = st.lists(st.booleans(), min_size=width, max_size=width)
    process = torch.tensor([data.draw(numbers) for _ in range(rows)])
    mask = torch.tensor([data.draw(flags) for _ in range(rows)]).bool()
    outcome = torch.tensor([data.draw(st.sampled_from([2.0, 1.0, 0.0])) for _ in range(rows)])
    groups = [data.draw(st.sampled_from("ab")) for _ in range(rows)]
    numbered = torch.tensor([ord(group) for group in groups])
    expected = algorithm.advantages(outcome, process, mask, numbered, "pass")
    torch.testing.assert_close(pass_advantages(outcome, process, mask, groups), expected)


def test_pass_of_token_rewards_of_the_service() -> None:
    """2.2 is not exact in float32, so differences of it are not those of 2."""
    outcome = torch.tensor([2.2, 0.0])
    rewards = torch.tensor([[2.2, 2.2, 2.1, float("nan"), 2.2], [-0.1, -0.1, 0.0, 0.0, 0.0]])
    mask = torch.tensor([[1, 1, 1, 0, 1], [1, 1, 0, 0, 0]])
    found = pass_advantages(outcome, rewards - outcome[:, None], mask, ["q", "q"], exponent=1.0)
    # Chunks of 2, 0 and 2, and one of -2; the mean of each and those after it.
    expected = [[4 / 3, 4 / 3, 1.0, 0.0, 2.0], [-2.0, -2.0, 0.0, 0.0, 0.0]]
    torch.testing.assert_close(found, torch.tensor(expected))
    sums = pass_advantages(outcome, rewards - outcome[:, None], mask, ["q", "q"], exponent=0.0)
    torch.testing.assert_close(sums[0], torch.tensor([4.0, 4.0, 2.0, 0.0, 2.0]))


def test_a_difference_by_rounding_ends_no_chunk() -> None:
    outcome = torch.tensor([2.0, 0.0])
    process = torch.tensor([[-0.3, -0.3, 0.0], [0.0, 0.0, 0.0]])
    mask = torch.ones_like(process).bool()
    rounded = process.clone()
    rounded[0, 1] = torch.nextafter(rounded[0, 1], torch.tensor(0.0))
    assert (rounded != process).any()
    for each in (
        lambda values: pass_advantages(outcome, values, mask, ["q", "q"]),
        lambda values: algorithm.advantages(outcome, values, mask, torch.zeros(2), "pass"),
    ):
        torch.testing.assert_close(each(rounded), each(process))


def test_other_scales() -> None:
    rewards = torch.tensor([[1.0, 3.0], [5.0, 5.0]])
    mask = torch.ones(2, 2)
    centred = token_advantages(rewards, mask, ["a", "b"], "none")
    torch.testing.assert_close(centred, torch.tensor([[-1.0, 1.0], [0.0, 0.0]]))
    scaled = token_advantages(rewards, mask, ["a", "b"], "batch")
    torch.testing.assert_close(scaled, centred / rewards.std(correction=0))
    equal = torch.ones(2, 2)
    assert token_advantages(equal, mask, ["a", "a"], "batch").abs().sum() == 0
    assert token_advantages(rewards, mask * 0, ["a", "b"]).abs().sum() == 0


def test_a_framework_that_is_missing_or_old_is_named_with_the_fix() -> None:
    with pytest.raises(ImportError, match=r"trl 1\.16 or newer.*pip install 'trl>=1\.16'"):
        importlib.import_module("capo_client.adapters.trl")
    with pytest.raises(ImportError, match=r"pytest 1000 or newer .*, but \d.* is installed"):
        require("pytest", "pytest", "1000")
    require("pytest", "pytest", "7")
    require("sys", "a-thing-without-a-version", "3")


FRAMEWORKS = ("trl", "verl", "verifiers", "swift", "skyrl", "skyrl_gym", "nemo_gym", "slime", "ray")


def test_no_framework_comes_with_the_client(tmp_path: Path) -> None:
    """Each could be imported here, which modules that try it in vain elsewhere would do."""
    for name in FRAMEWORKS:
        (tmp_path / f"{name}.py").write_text("__version__ = '999'\n")
    code = (
        "import importlib, pkgutil, sys\n"
        f"sys.path.insert(0, {str(tmp_path)!r})\n"
        "import capo_client\n"
        "names = [each.name for each in pkgutil.walk_packages(capo_client.__path__, 'capo_client.')]\n"
        "ours = [name for name in names if '.adapters' not in name and '__main__' not in name]\n"
        "for name in ours: importlib.import_module(name)\n"
        f"print(len(ours), *(set({FRAMEWORKS!r}) & set(sys.modules)))"
    )
    command = [sys.executable, "-c", code]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    count, *imported = ran.stdout.split()
    assert int(count) > 15 and not imported


@pytest.mark.parametrize(
    ("query", "response"),
    [("Q: 1+1?\nA: 2<|im_end|>", "A: 2"), ("Q: 1+1?\n  A </s> <eos> ", "A"), ("Q: 1+1?", "")],
)
def test_a_response_is_what_follows_the_prompt(query: str, response: str) -> None:
    assert response_of(query, "Q: 1+1?").strip() == response


def test_a_query_of_another_prompt_is_refused() -> None:
    with pytest.raises(ValueError, match="does not begin with its prompt"):
        response_of("abc", "x")


def test_options_of_the_environment_must_be_an_object(monkeypatch: Any) -> None:
    from capo_client.adapters.scoring import default_scorer

    monkeypatch.setenv("CAPO_OPTIONS", "[1]")
    with pytest.raises(ValueError, match="CAPO_OPTIONS must hold a JSON object, not '\\[1\\]'"):
        default_scorer()
