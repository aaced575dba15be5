"""The inspector in a real Chromium, before the real service; its judge is the one without a model.

tests/integration opens it before vLLM.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from axe_playwright_python.sync_playwright import Axe
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st
from playwright.sync_api import Browser, Page, expect

from capo_service.core import rewards
from capo_service.core.voting import VoteCount
from capo_service.engine.base import EngineStatus
from capo_service.pipeline.critics import SymbolicCritic
from capo_service.scheduling.api_keys import make_key
from kit_browser import browsing, visit
from kit_scripted import ScriptedEngine
from kit_service import Service, serving, settings

QUESTION = "A bakery bakes 12 trays with 8 rolls each and sells 75. How many are left?"
RIGHT = "It bakes 12 * 8 = 96 rolls.\n\nThen 96 - 75 = 21 are left.\n\n#### 21"
WRONG = "It bakes 12 * 8 = 86 rolls 🥐.\n\nThen 86 - 75 = 11 are left.\n\n#### 11"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("service")
    chosen = settings(folder, live_rollouts=20, canary_seconds=0.2, critique_style="brief")
    with serving(SymbolicCritic(), chosen) as found:
        yield found


def ask(page: Page, response: str = WRONG, **fields: str) -> None:
    page.fill("#question", QUESTION)
    page.fill("#response-a", response)
    page.locator("#form details").evaluate("details => details.open = true")
    for name, value in {"outcome": "0", "compare": "none", **fields}.items():
        element = page.locator(f"#{name}")
        if element.evaluate("e => e.tagName") == "SELECT":
            element.select_option(value)
        else:
            element.fill(value)
    page.click("#credit")


def rewards_shown(page: Page) -> list[str]:
    return page.locator(".step > .reward").all_inner_texts()


def accessible(page: Page) -> None:
    found = Axe().run(page)
    assert found.violations_count == 0, found.generate_report()


def test_credit_votes_tokens_and_critiques(page: Page, service: Service) -> None:
    visit(page, service.url)
    expect(page.locator("#judge")).to_contain_text("judge symbolic")
    ask(page, tokenizer="gpt2", outcome="1")
    expect(page.locator(".step")).to_have_count(3)
    assert rewards_shown(page) == ["+1.00", "+2.00", "+2.00"]
    assert page.locator(".step.wrong .index").all_inner_texts() == ["0"]
    expect(page.locator(".facts")).to_contain_text("1 of 3 steps wrong")
    # Every token is there, in its place, with its id and reward; the text is the rollout's.
    tokens = page.locator(".token")
    found = tokens.evaluate_all("all => all.map(e => [e.dataset.token, e.title, e.textContent])")
    assert [int(number) for number, _, _ in found] == list(range(len(found)))
    assert len(found) > 20 and all(
        re.search(r"id \d+ · reward \+[12]\.00", title) for _, title, _ in found
    )
    text = "".join(content for _, _, content in found).replace("⏎", "").replace("▹", "")
    assert text == WRONG.replace("\n", "")
    tokens.nth(2).hover()
    expect(page.locator(".tip")).to_contain_text("reward +1.00")
    # Keyboard: a step is focused, the arrows walk over its tokens.
    page.locator(".step").nth(1).focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    expect(page.locator(".tip")).to_contain_text("reward +2.00")
    # The critique beside its step says why.
    page.locator(".beside summary").click()
    expect(page.locator(".beside blockquote").first).to_contain_text(
        "12 * 8 = 86 rolls, but it is 96"
    )
    assert (
        page.locator(".matrix tbody tr").count() == 4
        and page.locator(".matrix td.wrong").count() == 4
    )
    accessible(page)
    page.click("#theme")
    accessible(page)
    page.click("#theme")


def test_the_vote_is_changed_without_judging_again(page: Page, service: Service) -> None:
    visit(page, service.url)
    ask(page, outcome="1")
    expect(page.locator(".step")).to_have_count(3)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.fill("#w_process", "5")
    assert rewards_shown(page) == ["−3.00", "+2.00", "+2.00"]
    page.select_option("#scheme", "first_error")
    assert rewards_shown(page) == ["−3.00", "−3.00", "−3.00"]
    page.select_option("#scheme", "process_only")
    assert rewards_shown(page) == ["−5.00", "0", "0"]
    page.fill("#k", "2")
    assert page.locator(".step .count").first.inner_text() == "2/2"
    assert not [url for url in asked if url.endswith("/credit")]


def test_style_segmenter_and_sampling_are_asked_for(page: Page, service: Service) -> None:
    visit(page, service.url)
    page.select_option("#segment", "regex")
    page.fill("#pattern", "Then|####")
    page.select_option("#style", "verdict")
    page.select_option("#sampling", "greedy")
    with page.expect_request("**/credit") as sent:
        ask(page)
    asked = sent.value.post_data_json
    assert asked["voting"] == {"method": "greedy", "critique_style": "verdict"}
    assert asked["segment"] == {"method": "regex", "pattern": "Then|####"}
    expect(page.locator(".step")).to_have_count(3)
    assert page.locator(".matrix tbody tr").count() == 1
    page.select_option("#segment", "blank_line")


def test_two_rollouts_and_two_judges_side_by_side(
    page: Page, service: Service, tmp_path: Path
) -> None:
    visit(page, service.url)
    page.select_option("#compare", "rollout")
    page.fill("#response-b", RIGHT)
    ask(page, compare="rollout")
    expect(page.locator(".rollout")).to_have_count(2)
    assert page.locator(".rollout").nth(1).locator(".step.wrong").count() == 0
    accessible(page)
    blind = ScriptedEngine(model="blind")
    with serving(blind, settings(tmp_path, allow_origins=[service.url])) as other:
        page.select_option("#compare", "judge")
        page.fill("#url-b", other.url)
        ask(page, compare="judge")
        expect(page.locator(".rollout h2")).to_have_text(["symbolic", "blind"])
        assert page.locator(".rollout").nth(1).locator(".step.wrong").count() == 0
        assert page.locator(".rollout").nth(0).locator(".step.wrong").count() == 1
    with serving(blind, settings(tmp_path)) as closed:
        page.fill("#url-b", closed.url)
        page.click("#credit")
        expect(page.locator("#problem")).to_contain_text("allow_origins")


def test_a_link_and_files_carry_the_result(
    browser: Browser, page: Page, service: Service, tmp_path: Path
) -> None:
    visit(page, service.url)
    ask(page)
    expect(page.locator(".step")).to_have_count(3)
    page.select_option("#scheme", "process_only")
    page.click("#share")
    expect(page.locator("#said")).to_contain_text("Link with the result")
    link = page.evaluate("navigator.clipboard.readText()")
    assert link == page.url and "#s=" in link
    for kind, name in (("json", "credit.json"), ("png", "credit.png")):
        with page.expect_download() as waiting:
            page.click(f"#save-{kind}")
        assert waiting.value.suggested_filename == name
        waiting.value.save_as(tmp_path / name)
    saved = json.loads((tmp_path / "credit.json").read_text())
    assert [step["reward"] for step in saved["entries"][0]["voted"]["steps"]] == [-1, 0, 0]
    picture = (tmp_path / "credit.png").read_bytes()
    assert picture.startswith(b"\x89PNG") and len(picture) > 20_000
    with browsing(browser) as fresh:
        visit(fresh, link)
        assert rewards_shown(fresh) == ["−1.00", "0", "0"]
        assert fresh.input_value("#question") == QUESTION
    page.goto("about:blank")
    page.goto(f"{service.url}/#s=broken")
    expect(page.locator("#problem")).to_contain_text("The link cannot be read")


def test_a_narrow_screen_and_the_keyboard_alone(browser: Browser, service: Service) -> None:
    with browsing(browser, 360, 740) as page:
        visit(page, service.url)
        page.focus("#question")
        page.keyboard.type(QUESTION)
        page.keyboard.press("Tab")
        page.keyboard.insert_text(WRONG)
        page.keyboard.press("Control+Enter")
        expect(page.locator(".step")).to_have_count(3)
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        accessible(page)
        page.focus("#tab-inspect")
        page.keyboard.press("ArrowLeft")
        expect(page.locator("#view-live h2")).to_be_visible()
        expect(page.locator(".chart").first).to_be_visible()
        assert page.evaluate("document.documentElement.scrollWidth") <= 360


class Loading(ScriptedEngine):
    """Ready when it is let."""

    let = False

    @property
    def status(self) -> EngineStatus:
        status = super().status
        return replace(status, ready=self.let and status.ready)


def test_requests_to_a_loading_service_are_retried(page: Page, tmp_path: Path) -> None:
    engine = Loading()
    with serving(engine, settings(tmp_path), wait=False) as service:
        visit(page, service.url)
        ask(page)
        expect(page.locator("#problem")).to_contain_text("503")
        expect(page.locator("#problem")).to_contain_text("Retrying in")
        accessible(page)
        engine.let = True
        expect(page.locator(".step")).to_have_count(3)
        assert page.locator("#problem").inner_text() == ""


def test_a_missing_key_is_asked_for(page: Page, tmp_path: Path) -> None:
    with serving(SymbolicCritic(), settings(tmp_path, api_keys=["secret"])) as service:
        visit(page, service.url)
        expect(page.locator("#judge")).to_have_text("An API key is required.")
        ask(page)
        expect(page.locator("#problem")).to_contain_text("401")
        expect(page.locator("#api-key")).to_be_focused()
        page.fill("#api-key", "secret")
        page.keyboard.press("Tab")
        expect(page.locator("#judge")).to_contain_text("symbolic")
        page.click("#credit")
        expect(page.locator(".step")).to_have_count(3)
        page.evaluate("sessionStorage.clear()")


def test_429_is_retried_after_its_retry_after(page: Page, tmp_path: Path) -> None:
    value, entry = make_key("reader")
    keys = tmp_path / "keys.toml"
    keys.write_text(entry.rstrip() + "\nrollouts_per_minute = 20\n")
    with serving(SymbolicCritic(), settings(tmp_path, api_keys_file=keys)) as service:
        visit(page, service.url)
        page.fill("#api-key", value)
        page.keyboard.press("Tab")
        expect(page.locator("#judge")).to_contain_text("symbolic")
        spend = """async (key) => {
            const rollouts = Array.from({length: 20}, () => ({question: "q", response: "a", outcome: 1}));
            const headers = {Authorization: `Bearer ${key}`, "Content-Type": "application/json"};
            return (await fetch("credit", {method: "POST", headers, body: JSON.stringify({rollouts})})).status;
        }"""
        assert page.evaluate(spend, value) == 200
        ask(page)
        expect(page.locator("#problem")).to_contain_text(re.compile("429.*Retrying in", re.S))
        expect(page.locator(".step")).to_have_count(3)
        page.evaluate("sessionStorage.clear()")


def test_unreadable_critiques_are_explained(page: Page, tmp_path: Path) -> None:
    with serving(
        ScriptedEngine(lambda prompt, sampling: "no verdict"), settings(tmp_path)
    ) as service:
        visit(page, service.url)
        ask(page)
        expect(page.locator("#problem")).to_contain_text("502")
        expect(page.locator("#problem")).to_contain_text("none of 4 critiques could be parsed")
        expect(page.locator("#problem")).to_contain_text("Try more critiques")


METHODS = ["intersection", "majority", "union", "average", "greedy"]
SCHEMES = ["capo", "process_only", "first_error", "flawed_positive"]


@examples(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.sampled_from(METHODS), st.sampled_from(SCHEMES), st.floats(0, 1), st.integers(-3, 3), st.integers(-3, 3),
    st.lists(st.none() | st.frozensets(st.integers(0, 3)), min_size=1, max_size=6), st.frozensets(st.integers(0, 3)), st.integers(1, 4),
)  # fmt: skip
def test_the_page_votes_as_the_service_does(
    page: Page, service: Service, method: Any, scheme: Any, outcome: float, whole: int, process: int,
    critiques: list[frozenset[int] | None], sure: frozenset[int], weight: int,
) -> None:  # fmt: skip
    if not page.url.startswith(service.url):
        visit(page, service.url)
    asked = critiques[:1] if method == "greedy" else critiques
    votes = VoteCount.of(asked, 4, sure, weight)
    said: list[dict[str, Any]] = [
        {"valid": c is not None, "wrong_steps": sorted(c or ())} for c in critiques
    ]
    if sure:
        said.append(
            {"valid": True, "wrong_steps": sorted(sure), "critic": "symbolic", "weight": weight}
        )
    result = {
        "steps": [{"votes": {"asked": 6}}] * 4,
        "critiques": said,
        "outcome": {"value": outcome},
    }
    vote = {"method": method, "k": 64, "scheme": scheme, "w_whole": whole, "w_process": process}
    found = page.evaluate(
        "async ([r, v]) => (await import('/ui/votes.js')).revote(r, v)", [result, vote]
    )
    if not votes.valid:
        assert found["judges"] == 0
        return
    penalties = votes.penalties(method)
    expected = rewards.step_rewards(scheme, penalties, outcome, float(whole), float(process))
    assert found["rewards"] == pytest.approx(expected)
    assert [step["wrong"] for step in found["steps"]] == [penalty >= 0.5 for penalty in penalties]


def test_the_page_is_ours_alone(service: Service) -> None:
    asked = httpx.get(service.url, headers={"Accept": "text/html"})
    policy = asked.headers["content-security-policy"]
    assert (
        "default-src 'none'" in policy and "script-src 'self'" in policy and "unsafe" not in policy
    )
    assert httpx.get(service.url).json()["credit"] == "POST /credit"
    assert httpx.get(f"{service.url}/ui/app.js").headers["x-content-type-options"] == "nosniff"
    assert httpx.get(f"{service.url}/ui/../settings.py").status_code == 404
