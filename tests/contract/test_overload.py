"""More than it can do: what is accepted is answered, the rest is refused, and order is kept."""

from __future__ import annotations

import asyncio
import json
import socket
from pathlib import Path
from typing import Any

import httpx
import pytest

from capo_service.engine.base import UNLIMITED, CritiqueSampling
from kit_scripted import ScriptedEngine, nothing_wrong
from kit_service import Background, HeldEngine, Service, body, eventually, serving, settings

WORKERS, REFUSED = 40, 100


def rollout(question: str, number: int, response: str = "a\n\nb") -> dict[str, Any]:
    return {"question": question, "response": f"{response} {number}", "outcome": 1}


def order(engine: ScriptedEngine, names: list[str]) -> list[str]:
    """Which of these names each prompt holds, in the order in which they were judged."""
    return [next(n for n in names if n in p) for p in engine.prompts if any(n in p for n in names)]


def test_rollouts_of_a_question_are_judged_side_by_side(tmp_path: Path) -> None:
    engine = ScriptedEngine()
    names = [f"question-{i}?" for i in range(4)]
    mixed = [rollout(names[i % 4], i) for i in range(20)]
    with serving(engine, settings(tmp_path, max_running=1)) as service:
        answer = httpx.post(f"{service.url}/credit", json=body(*mixed, voting={"n": 1})).json()
    assert order(engine, names) == [name for name in names for _ in range(5)]
    assert [result["id"] for result in answer["results"]] == [str(i) for i in range(20)]


def test_evaluation_waits_while_training_is_judged_and_is_not_forgotten(tmp_path: Path) -> None:
    engine = HeldEngine()
    names = ["evaluation?", "training?"]
    evaluation, training = ([rollout(name, i) for i in range(40)] for name in names)
    with serving(engine, settings(tmp_path, max_running=1)) as service:
        first = Background(service, body(*evaluation, voting={"n": 1}, priority="evaluation"))
        eventually(lambda: service.service.admission.accepted == 40)
        second = Background(service, body(*training, voting={"n": 1}))
        eventually(lambda: service.service.admission.accepted == 80)
        engine.let_go(service)
        assert first.wait().status_code == second.wait().status_code == 200
    judged = order(engine, names)
    since = judged[judged.index("training?") :][:36]
    assert 30 <= since.count("training?") < 36


def test_ten_times_too_much_loses_nothing_that_was_accepted(tmp_path: Path) -> None:
    """A worker sends the next request as soon as it has an answer, whatever that is, until one was
    accepted. The judge begins when much was refused."""
    engine = HeldEngine()
    limits = {"max_running": 4, "max_queued_tokens": 40 * 67, "verify_workers": 1}

    async def flood(service: Service) -> list[httpx.Response]:
        answers: list[httpx.Response] = []
        async with httpx.AsyncClient(
            base_url=service.url, limits=httpx.Limits(max_connections=100), timeout=60
        ) as http:

            async def work(number: int) -> None:
                status = 0
                while status != 200:
                    mine = [rollout(f"{number}?", 4 * len(answers) + i) for i in range(4)]
                    sent = body(*mine, voting={"n": 1}, deadline_ms=60_000)
                    answers.append(await http.post("/credit", json=sent))
                    status = answers[-1].status_code
                    if len(answers) == REFUSED:
                        engine.let_go(service)

            await asyncio.gather(*map(work, range(WORKERS)))
        return answers

    with serving(engine, settings(tmp_path, **limits)) as service:
        answers = asyncio.run(flood(service))
        admission = service.service.admission
        eventually(lambda: admission.accepted == 0)
        assert (admission.accepted_tokens, admission.running, admission.queued_tokens) == (0, 0, 0)
    accepted = [answer for answer in answers if answer.status_code == 200]
    refused = [answer for answer in answers if answer.status_code == 429]
    assert len(accepted) + len(refused) == len(answers)
    assert len(accepted) == WORKERS and len(refused) >= REFUSED
    results = [result for answer in accepted for result in answer.json()["results"]]
    assert len(results) == 4 * len(accepted)
    assert {result["status"] for result in results} == {"ok"}
    waits = [int(answer.headers["retry-after"]) for answer in refused]
    assert min(waits) >= 1 and max(waits) <= 60
    assert engine.running == 0 and len(engine.prompts) == len(results)


def test_a_client_that_stops_reading_holds_up_nobody(tmp_path: Path) -> None:
    engine = ScriptedEngine(wordy)
    sent = json.dumps(body(*(rollout("q", i) for i in range(300)), include=["critiques"])).encode()
    head = (
        "POST /credit HTTP/1.1\r\nHost: here\r\nAccept: application/x-ndjson\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(sent)}\r\n\r\n"
    )
    with serving(engine, settings(tmp_path)) as service:
        _, port = service.url.rsplit(":", 1)
        with socket.create_connection(("127.0.0.1", int(port))) as deaf:
            deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            deaf.sendall(head.encode() + sent)
            eventually(lambda: len(engine.prompts) == 1200 and engine.running == 0)
            assert service.service.admission.accepted == 300, "the answer is not read"
            assert httpx.post(f"{service.url}/credit", json=body()).status_code == 200
        eventually(lambda: service.service.admission.accepted == 0)


def wordy(prompt: str, sampling: CritiqueSampling) -> str:
    return nothing_wrong(prompt, sampling).replace("fine", "fine, " * 300)


@pytest.mark.parametrize(
    ("slots", "setting", "at_once"),
    [(300, None, 300), (4, None, 128), (UNLIMITED, None, 128), (300, 7, 7)],
)
def test_a_large_engine_is_not_kept_from_its_work_by_a_default(
    tmp_path: Path, slots: int, setting: int | None, at_once: int
) -> None:
    engine = ScriptedEngine(delay=60, slots=slots)
    with serving(engine, settings(tmp_path, max_running=setting, drain_seconds=0)) as service:
        limits = httpx.get(f"{service.url}/info").json()["limits"]
        assert limits["max_running"] == at_once
        caller = Background(service, body(*(rollout("q", i) for i in range(310)), voting={"n": 1}))
        eventually(lambda: service.service.admission.running == at_once)
        eventually(lambda: len(engine.prompts) == at_once)
        service.loop.call_soon_threadsafe(engine.kill)
        assert caller.wait().status_code == 503
