"""ms-swift's own registry and reward base, before the real service."""

from __future__ import annotations

import json

import pytest
from kit_adapters import QUESTIONS

from capo_client.adapters import scoring


@pytest.fixture(autouse=True)
def options(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CAPO_OPTIONS", json.dumps({"voting": {"n": 3}}))
    scoring._scorer_of.cache_clear()


async def test_the_plug_in_registers_a_reward_that_swift_awaits() -> None:
    from swift.rewards import AsyncORM, orms

    import capo_client.adapters.swift  # noqa: F401  # as --external_plugins does

    reward = orms["capo"](args=None)
    assert isinstance(reward, AsyncORM)
    texts = ["3 * 4 = 12.\n\nLess 2 is 10.\n\n#### 10", "It is 7.\n\n#### 7"]
    messages = [
        [{"role": "user", "content": QUESTIONS[0][0]}, {"role": "assistant", "content": text}]
        for text in texts
    ]
    rewards = await reward(completions=texts, messages=messages, solution=["10", "10"])
    assert 1.0 <= rewards[0] <= 2.0 and -1.0 <= rewards[1] <= 0.0
    rewards = await reward(completions=texts, messages=messages, solution=[None, 1e1])
    assert rewards[0] is None and rewards[1] is not None
    infos = [None, {"num_turns": 2}]
    with pytest.raises(ValueError, match="2 turns and 1 messages of the policy"):
        await reward(completions=texts, messages=messages, solution=["1", "1"], rollout_infos=infos)
    with pytest.raises(ValueError, match="solution or answer"):
        await reward(completions=texts, messages=messages)
