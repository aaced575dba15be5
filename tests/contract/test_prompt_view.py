"""`POST /prompt`: what the judge is asked, with codes of its own in the heads and tags of steps."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import httpx
import pytest

from capo_service.core.prompt import nonce
from capo_service.engine.base import CritiqueSampling
from capo_service.pipeline.critics import SymbolicCritic
from capo_service.scheduling.api_keys import make_key
from kit_scripted import ScriptedEngine
from kit_service import serving, settings

ROLLOUT = {
    "question": "How many?",
    "response": "First 1 + 1 = 2.\n\nSo 2.",
    "reference": "2",
}
SECRET = nonce(b"s", "How many?")  # of kit_service's settings


def ask(url: str, path: str = "/prompt", **more: Any) -> Any:
    return httpx.post(url + path, json={"rollouts": [ROLLOUT], **more}, timeout=60).json()


def code(text: str) -> str:
    [found] = re.findall(r"^\[end ([a-z]{2})\]$", text, re.MULTILINE)
    return str(found)


def test_the_prompt_is_the_judges_but_for_its_code(tmp_path: Path) -> None:
    seeds: list[int | None] = []

    def script(prompt: str, sampling: CritiqueSampling) -> str:
        seeds.append(sampling.seed)
        return '{"incorrect_steps": []}'

    engine = ScriptedEngine(script)
    chosen = settings(tmp_path, critique_style="verdict", model="scripted")
    voting = {"method": "average", "n": 3, "seed": 7, "early_stop": False, "temperature": 0.5}
    with serving(engine, chosen) as service:
        ask(service.url, "/credit", voting=voting)
        first, second = (ask(service.url, voting=voting) for _ in range(2))
    [judged] = {prompt for prompt in engine.prompts}
    texts = ["\n".join(turn["content"] for turn in each["messages"]) for each in (first, second)]
    # Nothing else differs, and the length is that of the judge's own prompt.
    assert [re.sub(rf"\b{code(text)}\b", code(judged), text) for text in texts] == [judged, judged]
    assert first["prompt_tokens"] == len(judged)
    assert [turn["role"] for turn in first["messages"]] == ["system", "user"]
    assert first["steps"] == [[0, 18], [18, 23]]
    assert first["seeds"] == sorted(seeds, key=seeds.index) and len(set(seeds)) == 3
    assert first["sampling"]["temperature"] == 0.5


def test_what_opens_and_closes_a_thought_is_shown(tmp_path: Path) -> None:
    with serving(ScriptedEngine(), settings(tmp_path, thinking_tokens=32)) as service:
        plain = ask(service.url, voting={"thinking_tokens": 0})
        thinking = ask(service.url)
    assert thinking["profile"] == plain["profile"] == "default"
    assert (thinking["thinking_tokens"], plain["thinking_tokens"]) == (32, 0)
    assert thinking["thinking_opening"] == "<think>\n"
    assert thinking["thinking_closing"] == "</think>\n\n"
    assert plain["thinking_opening"] is plain["thinking_closing"] is None


def test_a_template_cannot_show_the_nonce_in_another_form(tmp_path: Path) -> None:
    template = tmp_path / "loud.j2"
    template.write_text(
        "{% block system %}{{ nonce | upper }} {{ nonce | reverse }}{% endblock %}"
        "{% block user %}{{ question }}{% for s in steps %}{{ s.open }}{{ s.text }}{% endfor %}"
        "{% endblock %}"
    )
    engine = ScriptedEngine()
    with serving(engine, settings(tmp_path, template=template)) as service:
        said, again = (str(ask(service.url)) for _ in range(2))
        ask(service.url, "/credit")
    assert SECRET.upper() in engine.prompts[0] and SECRET[::-1] in engine.prompts[0]
    for form in (SECRET, SECRET.upper(), SECRET[::-1]):
        assert form not in said + again
    assert said != again


def test_the_arithmetic_checker_reads_no_prompt(tmp_path: Path) -> None:
    with serving(SymbolicCritic(), settings(tmp_path)) as service:
        found = ask(service.url)
    assert found["messages"] == [] and found["prompt_tokens"] is None and found["sampling"] is None


def test_the_role_credit_is_needed(tmp_path: Path) -> None:
    value, entry = make_key("reader")
    keys = tmp_path / "keys.toml"
    keys.write_text(entry.replace('"credit", ', ""))
    with serving(ScriptedEngine(), settings(tmp_path, api_keys_file=keys)) as service:
        assert ask(service.url)["status"] == 401
        found = httpx.post(
            f"{service.url}/prompt",
            json={"rollouts": [ROLLOUT]},
            headers={"Authorization": f"Bearer {value}"},
        )
    assert found.status_code == 403 and "the role credit" in found.json()["detail"]


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        ({"rollouts": [ROLLOUT, ROLLOUT]}, 413, "2 rollouts"),
        ({"rollouts": [{"question": "q"}]}, 422, "response"),
        ({"rollouts": [{**ROLLOUT, "response": " "}]}, 422, "there is no step to judge"),
        ({"rollouts": [ROLLOUT], "style": "x"}, 422, "style"),
    ],
)
def test_what_has_no_prompt_is_a_problem(
    http: httpx.Client, body: dict[str, object], status: int, said: str
) -> None:
    answer = http.post("/prompt", json=body)
    assert answer.status_code == status and said in answer.json()["detail"]
    assert answer.headers["content-type"] == "application/problem+json"
