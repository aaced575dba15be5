"""bench/ceiling.py from start to end, in its quick form."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "bench"))

from ceiling_requests import BATCH, WAYS, body

import capo_wire as wire
from capo_service.core.alignment import from_lengths, from_offsets

ROOT = Path(__file__).parents[2]


def test_all_ways_send_the_same_tokens() -> None:
    lengths, ids, offsets = (json.loads(body(way, 300))["rollouts"] for way in WAYS)
    assert len(lengths) == len(ids) == len(offsets) == BATCH
    for by_length, by_id, by_offset in zip(lengths, ids, offsets, strict=True):
        for fields in (by_length, by_id, by_offset):
            wire.Rollout.model_validate(fields)
        text = by_length["response"]
        assert text == by_id["response"] == by_offset["response"]
        aligned = from_lengths(by_length["token_lengths"], text)
        assert aligned == from_offsets(by_offset["token_offsets"], text)
        assert len(aligned) == len(by_id["response_token_ids"])
        assert len(aligned) == pytest.approx(300, rel=0.1)


@pytest.mark.timeout(900)
def test_the_quick_form_reports_every_length(tmp_path: Path) -> None:
    out = tmp_path / "ceiling.json"
    command = [sys.executable, "bench/ceiling.py", "--quick", "--out", str(out)]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=900, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(out.read_text())
    for length in (300, 2000, 8000):
        assert found[f"rollouts_per_s_{length}"] > 0
        assert found[f"ratio_to_offsets_{length}"] > 0
        assert found["now"]["ids"][str(length)]["rollouts_per_s"] > 0
    # Lengths are at most a third of the bytes of offsets, and the answer's token rewards are gone.
    bytes_of = {way: found["now"][way]["8000"]["body_bytes"] for way in WAYS}
    assert bytes_of["lengths"] < bytes_of["ids"] < bytes_of["offsets"]
    assert 0 < found["memory"]["lengths"]["idle_gib"] <= found["peak_rss_gib"]
