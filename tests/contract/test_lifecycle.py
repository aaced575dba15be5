"""What happens when things go wrong: full, late, gone, dead, stopping; and what is done once."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from capo_service.engine.base import CritiqueSampling, JudgeLimits
from kit_scripted import ScriptedEngine, nothing_wrong
from kit_service import ROLLOUT, Background, HeldEngine, body, eventually, serving, settings


def test_keys_are_needed_where_some_are_set(tmp_path: Path) -> None:
    with serving(ScriptedEngine(), settings(tmp_path, api_keys=["one", "two"])) as service:
        for key, status in [(None, 401), ("three", 401), ("two", 200)]:
            headers = {"Authorization": f"Bearer {key}"} if key else {}
            response = httpx.post(f"{service.url}/credit", json=body(), headers=headers)
            assert response.status_code == status
        assert httpx.get(f"{service.url}/info").status_code == 401
        assert httpx.get(f"{service.url}/info").headers["www-authenticate"] == "Bearer"
        assert httpx.get(f"{service.url}/health/ready").status_code == 200


def test_before_the_judge_is_loaded_the_service_lives_but_is_not_ready(tmp_path: Path) -> None:
    loaded = asyncio.Event()

    class Slow(ScriptedEngine):
        async def start(self) -> JudgeLimits:
            await loaded.wait()
            return await super().start()

    with serving(Slow(), settings(tmp_path), wait=False) as service:
        assert httpx.get(f"{service.url}/health/live").status_code == 200
        assert httpx.get(f"{service.url}/health/ready").status_code == 503
        refused = httpx.post(f"{service.url}/credit", json=body())
        assert refused.status_code == 503 and int(refused.headers["retry-after"]) > 0
        assert refused.json()["type"] == "urn:capo:problem:not-ready"
        service.loop.call_soon_threadsafe(loaded.set)
        eventually(lambda: httpx.get(f"{service.url}/health/ready").status_code == 200)
        assert httpx.post(f"{service.url}/credit", json=body()).status_code == 200


def test_a_full_queue_refuses_and_takes_again_later(tmp_path: Path) -> None:
    engine = HeldEngine()
    # Room for two: each has a few tokens, and four critiques of 64.
    with serving(engine, settings(tmp_path, max_queued_tokens=520)) as service:
        slow = Background(service, body(ROLLOUT, {**ROLLOUT, "outcome": 0}))
        eventually(lambda: service.service.admission.accepted == 2)
        refused = httpx.post(f"{service.url}/credit", json=body())
        assert refused.status_code == 429 and int(refused.headers["retry-after"]) >= 1
        engine.let_go(service)
        assert slow.wait().status_code == 200
        assert httpx.post(f"{service.url}/credit", json=body()).status_code == 200
        never = httpx.post(f"{service.url}/credit", json=body(*[ROLLOUT] * 3))
        assert never.status_code == 413 and "max_queued_tokens" in never.json()["detail"]


def test_a_single_rollout_does_not_wait_for_all_of_a_large_batch(tmp_path: Path) -> None:
    engine = HeldEngine()
    with serving(engine, settings(tmp_path, max_running=1)) as service:
        thirty = ({**ROLLOUT, "outcome": i / 30} for i in range(30))
        large = Background(service, body(*thirty, voting={"n": 1}))
        eventually(lambda: service.service.admission.accepted == 30)
        single = Background(service, body({**ROLLOUT, "question": "single?"}, voting={"n": 1}))
        eventually(lambda: service.service.admission.accepted == 31)
        engine.let_go(service)
        assert single.wait().status_code == large.wait().status_code == 200
    [turn] = [turn for turn, prompt in enumerate(engine.prompts) if "single?" in prompt]
    assert len(engine.prompts) == 31 and turn <= 2


def test_a_deadline_ends_what_is_late_and_keeps_what_is_done(tmp_path: Path) -> None:
    with serving(HeldEngine(), settings(tmp_path)) as service:
        alone = httpx.post(f"{service.url}/credit", json=body(deadline_ms=50))
        assert alone.status_code == 504
        assert alone.json()["type"] == "urn:capo:problem:deadline"

    class Hangs(ScriptedEngine):
        async def complete(self, *given: Any) -> Any:
            self.delay = 0 if len(self.prompts) < 3 else 60
            return await super().complete(*given)

    engine = Hangs()
    with serving(engine, settings(tmp_path, max_running=1)) as service:
        several = [{**ROLLOUT, "outcome": i / 10} for i in range(10)]
        response = httpx.post(
            f"{service.url}/credit",
            timeout=60,
            json=body(*several, voting={"n": 1}, deadline_ms=4000),
        )
        found = [r["status"] if r["status"] == "ok" else r["error"]["status"]
                 for r in response.json()["results"]]  # fmt: skip
        assert sorted(map(str, found)) == ["504"] * 7 + ["ok"] * 3
        eventually(lambda: engine.running == 0)
        assert len(engine.cancelled) == 1


@pytest.mark.parametrize("accept", ["application/json", "application/x-ndjson"])
def test_a_caller_that_hangs_up_frees_the_judge(tmp_path: Path, accept: str) -> None:
    engine = ScriptedEngine(delay=30)
    with serving(engine, settings(tmp_path)) as service:
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(
                f"{service.url}/credit", json=body(), headers={"Accept": accept}, timeout=0.5
            )
        eventually(lambda: engine.running == 0)
        assert len(engine.cancelled) == 4
        eventually(lambda: service.service.admission.accepted == 0)


def test_a_dead_engine_fails_every_waiting_caller_at_once(tmp_path: Path) -> None:
    engine = ScriptedEngine(delay=30)
    with serving(engine, settings(tmp_path, max_running=2)) as service:
        callers = [
            Background(service, body({**ROLLOUT, "outcome": i / 10}), Accept=accept)
            for i, accept in enumerate(["application/json", "application/x-ndjson"] * 3)
        ]
        eventually(lambda: service.service.admission.accepted == 6)
        service.loop.call_soon_threadsafe(engine.kill)
        statuses = []
        for caller in callers:
            response = caller.wait()
            first = json.loads(response.text.splitlines()[0])
            statuses.append(first.get("error", first)["status"])
        assert statuses == [503] * 6
        assert httpx.get(f"{service.url}/health/ready").status_code == 503
        assert httpx.get(f"{service.url}/health/live").status_code == 503
        assert httpx.post(f"{service.url}/credit", json=body()).status_code == 503


def test_identical_rollouts_in_flight_are_judged_once(tmp_path: Path) -> None:
    engine = HeldEngine()
    with serving(engine, settings(tmp_path)) as service:
        other = {**ROLLOUT, "id": "another name"}
        first = Background(service, body(ROLLOUT, other))
        second = Background(service, body(ROLLOUT, include=["critiques"]))
        eventually(lambda: service.service.admission.accepted == 3)
        engine.let_go(service)
        results = first.wait().json()["results"] + second.wait().json()["results"]
        assert len(engine.prompts) == 4
        assert sorted(result["cached"] for result in results) == [False, True, True]
        assert sum(result["usage"]["critiques_run"] for result in results) == 4
        assert [result["id"] for result in results] == ["0", "another name", "0"]


def test_one_caller_that_leaves_does_not_end_what_another_waits_for(tmp_path: Path) -> None:
    engine = HeldEngine()
    with serving(engine, settings(tmp_path)) as service:
        stays = Background(service, body())
        eventually(lambda: service.service.admission.accepted == 1)
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{service.url}/credit", json=body(), timeout=0.3)
        eventually(lambda: service.service.admission.accepted == 1)  # the service knows
        engine.let_go(service)
        assert stays.wait().status_code == 200
        assert len(engine.prompts) == 4 and not engine.cancelled


def test_a_vote_that_is_decided_ends_the_critiques_it_no_longer_needs(tmp_path: Path) -> None:
    calls = iter(range(100))

    class Uneven(ScriptedEngine):
        async def complete(self, request: str, *rest: Any) -> Any:
            self.delay = 0.01 if next(calls) % 8 < 5 else 20
            return await super().complete(request, *rest)

    engine = Uneven()
    with serving(engine, settings(tmp_path)) as service:
        for early_stop in (True, False):
            engine.aborted.clear()
            response = httpx.post(
                f"{service.url}/credit", timeout=60,
                json=body(voting={"n": 8, "early_stop": early_stop}, deadline_ms=3000),
            )  # fmt: skip
            if early_stop:
                [result] = response.json()["results"]
                assert result["usage"]["critiques_run"] == 5
                assert result["steps"][0]["votes"] == {
                    "wrong": 0,
                    "valid": 5,
                    "asked": 8,
                    "share": None,
                }
                assert len(engine.aborted) == 3
            else:
                assert response.status_code == 504 and not engine.aborted


def test_unreadable_critiques_do_not_vote_and_none_readable_is_an_error(tmp_path: Path) -> None:
    answers: list[str] = []
    engine = ScriptedEngine(lambda prompt, sampling: answers.pop(0))
    with serving(engine, settings(tmp_path, critique_format="tag")) as service:
        answers += ["nonsense", "<incorrect_steps>1</incorrect_steps>", "", "I think step 0"]
        [result] = httpx.post(
            f"{service.url}/credit", json=body(include=["critiques"], voting={"early_stop": False})
        ).json()["results"]
        assert [step["wrong"] for step in result["steps"]] == [False, True]
        assert result["steps"][1]["votes"] == {"wrong": 1, "valid": 1, "asked": 4, "share": None}
        assert [critique["valid"] for critique in result["critiques"]].count(True) == 1
        assert all(c["reason"] for c in result["critiques"] if not c["valid"])
        answers += ["nonsense"] * 4
        [result] = httpx.post(f"{service.url}/credit", json=body()).json()["results"]
        assert result["status"] == "error" and result["error"]["status"] == 502
        assert "none of 4 critiques could be parsed" in result["error"]["detail"]


def test_a_prompt_beyond_the_context_names_both_numbers(tmp_path: Path) -> None:
    with serving(ScriptedEngine(context_length=2000), settings(tmp_path)) as service:
        long, short = httpx.post(
            f"{service.url}/credit",
            json=body({**ROLLOUT, "response": "x" * 5000}, {**ROLLOUT, "response": "x"}),
        ).json()["results"]
        assert long["error"]["status"] == 422
        assert "context holds 2000" in long["error"]["detail"]
        assert "prompt has 6" in long["error"]["detail"]
        assert short["status"] == "ok"


def test_each_critique_has_a_seed_of_its_own(tmp_path: Path) -> None:
    seeds: list[int | None] = []

    def script(prompt: str, sampling: CritiqueSampling) -> str:
        seeds.append(sampling.seed)
        return nothing_wrong(prompt, sampling)

    with serving(ScriptedEngine(script), settings(tmp_path)) as service:
        for seed in (7, 7, 8):
            httpx.post(
                f"{service.url}/credit", json=body(voting={"seed": seed, "early_stop": False})
            )
    assert len(set(seeds[:4])) == 4
    assert seeds[:4] == seeds[4:8] and set(seeds[:4]).isdisjoint(seeds[8:])


def test_a_template_of_the_operators_own_is_what_the_judge_reads(tmp_path: Path) -> None:
    template = tmp_path / "mine.j2"
    template.write_text(
        "{% block system %}My own rules, {{ style }}.{% endblock %}"
        "{% block user %}Q {{ question }}{% for s in steps %} {{ s.open }}{{ s.text }}{{ s.close }}"
        "{% endfor %}{% endblock %}"
    )
    engine = ScriptedEngine()
    with serving(engine, settings(tmp_path, template=template, critique_style="full")) as service:
        assert httpx.post(f"{service.url}/credit", json=body()).status_code == 200
    assert engine.prompts[0].startswith("My own rules, full.\nQ q <step_0 ")


def test_stopping_lets_accepted_work_end_and_takes_no_more(tmp_path: Path) -> None:
    engine = ScriptedEngine(delay=1.0)
    with serving(engine, settings(tmp_path, drain_seconds=10)) as service:
        accepted = Background(service, body())
        eventually(lambda: service.service.admission.accepted == 1)
    assert accepted.wait().status_code == 200


def test_the_routes_that_load_balancers_ask_for_are_there(tmp_path: Path) -> None:
    class Slow(ScriptedEngine):
        async def start(self) -> JudgeLimits:
            await loaded.wait()
            return await super().start()

    loaded = asyncio.Event()
    with serving(Slow(), settings(tmp_path), wait=False) as service:
        for method in ("GET", "HEAD"):
            waiting = httpx.request(method, f"{service.url}/health")
            assert waiting.status_code == 503 and int(waiting.headers["retry-after"]) > 0
            assert bool(waiting.content) == (method == "GET")
        service.loop.call_soon_threadsafe(loaded.set)
        eventually(lambda: httpx.head(f"{service.url}/health").status_code == 200)
        for path in ("/", "/health", "/health/live", "/health/ready", "/metrics", "/info"):
            got, head = (httpx.request(m, f"{service.url}{path}") for m in ("GET", "HEAD"))
            assert (got.status_code, head.status_code, head.content) == (200, 200, b"")
            assert got.headers["content-type"] == head.headers["content-type"]
        assert httpx.head(f"{service.url}/credit").status_code == 405
        assert httpx.head(f"{service.url}/nothing").status_code == 404
        # The next request on the same connection is not disturbed by a body that was not sent.
        with httpx.Client(base_url=service.url) as http:
            assert http.head("/info").status_code == 200
            assert http.post("/credit", json=body()).status_code == 200
