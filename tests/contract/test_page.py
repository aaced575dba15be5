"""What the inspector asks beside `POST /credit`: tokens of a text, and recent activity."""

from __future__ import annotations

from pathlib import Path
from threading import Event, Thread
from typing import Any

import httpx
import pytest

import capo_wire as wire
from capo_client import CreditClient
from capo_service.api import inspector
from capo_service.scheduling.api_keys import make_key
from kit import tokenizer
from kit_scripted import ScriptedEngine
from kit_service import Service, eventually, serving, settings

TEXT = "12 * 8 = 96 🥐.\n\nSo 96."


@pytest.mark.parametrize("kind", ["gpt2", "llama2"])
def test_a_text_is_tokenized_and_tokens_are_placed(http: httpx.Client, kind: str) -> None:
    wanted = tokenizer(kind).encode(TEXT, add_special_tokens=False).ids
    found = http.post("/tokens", json={"tokenizer": kind, "response": TEXT}).json()
    assert found["response_token_ids"] == wanted and found["response"] == TEXT
    placed = http.post("/tokens", json={"tokenizer": kind, "response_token_ids": wanted}).json()
    assert placed["token_offsets"] == found["token_offsets"]
    starts = [start for start, end in found["token_offsets"] if end > start]
    assert starts == sorted(starts) and found["token_offsets"][-1][1] == len(TEXT)


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        ({"tokenizer": "none", "response": "a"}, 422, "this service has"),
        ({"tokenizer": "gpt2"}, 422, "give response, response_token_ids, or both"),
        ({"tokenizer": "gpt2", "response": "a", "x": 1}, 422, "x: unknown field"),
        (
            {"tokenizer": "gpt2", "response_token_ids": [10**6]},
            422,
            "not in the vocabulary of gpt2",
        ),
        ({"tokenizer": "gpt2", "response": "a" * 300_000}, 413, "max_characters"),
        (
            {"tokenizer": "gpt2", "response": "other", "response_token_ids": [1, 2, 3]},
            422,
            "disagree at character 0 ('other')",
        ),
    ],
)
def test_what_cannot_be_placed_is_said(
    http: httpx.Client, body: dict[str, object], status: int, said: str
) -> None:
    answer = http.post("/tokens", json=body)
    assert answer.status_code == status and said in answer.json()["detail"]
    assert answer.headers["content-type"] == "application/problem+json"


def test_looking_at_tokens_cannot_hold_up_the_service(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[httpx.Response] = []
    go_on, place = Event(), inspector._place

    def held(*given: Any) -> wire.Tokens:
        assert go_on.wait(60)
        return place(*given)

    def look() -> None:
        asked = {"tokenizer": "gpt2", "response": "ab"}
        found.append(httpx.post(f"{service.url}/tokens", json=asked, timeout=60))

    monkeypatch.setattr(inspector, "_place", held)
    threads = [Thread(target=look) for _ in range(inspector._CONCURRENT + 3)]
    for thread in threads:
        thread.start()
    try:
        eventually(lambda: len(found) == 3)  # while those that are let in wait
    finally:
        go_on.set()
        for thread in threads:
            thread.join()
    assert [each.status_code for each in found] == [429] * 3 + [200] * inspector._CONCURRENT
    assert found[0].headers["retry-after"] == "1"
    look()
    assert found[-1].status_code == 200, "those that ended make room again"


def test_a_key_sees_its_own_rollouts_and_an_operator_all(tmp_path: Path) -> None:
    (alice, first), (bob, second), (ops, third) = (
        make_key(name) for name in ("alice", "bob", "ops")
    )
    third = (
        third.rstrip() + '\nroles = ["info", "metrics"]\n'
        if "roles" not in third
        else third.replace('["credit", "info"]', '["info", "metrics"]')
    )
    keys = tmp_path / "keys.toml"
    keys.write_text("\n".join((first, second, third)))
    with serving(
        ScriptedEngine(), settings(tmp_path, api_keys_file=keys, live_rollouts=3)
    ) as service:
        for name, key in (("a", alice), ("b", bob)):
            with CreditClient(service.url, api_key=key) as client:
                rollouts = [
                    {"question": f"{name}{i}", "response": f"x{i}", "outcome": 1} for i in range(2)
                ]
                client.credit(rollouts, run=f"run-{name}").raise_for_errors()

        def live(key: str, after: float = 0) -> dict[str, list[dict[str, object]]]:
            headers = {"Authorization": f"Bearer {key}"}
            found = httpx.get(f"{service.url}/live", headers=headers, params={"after": after})
            assert found.status_code == 200
            return found.json()  # type: ignore[no-any-return]

        assert {each["run"] for each in live(bob)["recent"]} == {"run-b"}
        everything = live(ops)["recent"]
        assert len(everything) == 3, "bounded, the newest"
        assert [each["run"] for each in live(alice)["recent"]] == ["run-a"]
        assert everything[0]["result"]["critiques"] and everything[0]["result"]["response"]  # type: ignore[index]
        assert live(ops, float(everything[1]["at"]))["recent"] == everything[2:]  # type: ignore[arg-type]
        eventually(lambda: any(sample["rollouts"] == 4 for sample in live(ops)["samples"]))
        assert httpx.get(f"{service.url}/live").status_code == 401


def test_another_run_is_answered_from_the_cache(tmp_path: Path) -> None:
    rollout = {"question": "q", "response": "x", "outcome": 1}
    with (
        serving(ScriptedEngine(), settings(tmp_path, result_cache="memory")) as service,
        CreditClient(service.url) as client,
    ):
        [first] = client.credit([rollout], run="one").credited
        [second] = client.credit([rollout], run="two").credited
        assert (first.cached, second.cached) == (False, True)
        [other] = client.credit([rollout], voting={"critique_style": "full"}).credited
        assert not other.cached


def test_the_style_of_critiques_is_the_request_s(tmp_path: Path) -> None:
    engine = ScriptedEngine()
    with serving(engine, settings(tmp_path)) as service, CreditClient(service.url) as client:
        for style in ("verdict", "full"):
            client.credit(
                [{"question": style, "response": "x", "outcome": 1}],
                voting={"n": 1, "critique_style": style},
            )
    assert len(set(engine.prompts)) == 2
