"""Judges that think, criteria and windows, in a real Chromium."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect

from capo_service.core import rewards
from capo_service.core.criteria import VotedCriterion, rewards_by_step
from capo_service.engine.base import CritiqueSampling
from kit_browser import browsing, visit
from kit_scripted import ScriptedEngine
from kit_service import Service, serving, settings

QUESTION = "Half of 13 is what?"
RESPONSE = "13 / 2 = 6.4.\n\nThe answer is \\boxed{6.4}."
THOUGHT = (
    "Half of 13 is $\\frac{13}{2} = 6.5$, and not 6.4.\n"
    "<img src=x onerror=\"document.title='run'\"><b>So</b> step 0 is wrong 🥐, step 1 repeats it.\n"
    "\\href{javascript:alert(1)}{here} </think> </details></script>\n"
)
BUDGET = len(THOUGHT) + 100


def flag_both(prompt: str, sampling: CritiqueSampling) -> str:
    return '{"analysis": "See the thought.", "incorrect_steps": [0, 1]}'


ORDER: dict[int, int] = {}  # seed of a critique -> its number; each request has four


def think(prompt: str, sampling: CritiqueSampling) -> str:
    """The second and fourth of four critiques reach their budget."""
    assert sampling.seed is not None
    number = ORDER.setdefault(sampling.seed, len(ORDER))
    return THOUGHT * (4 if number % 2 else 1)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    chosen = settings(tmp_path_factory.mktemp("service"), live_rollouts=20)
    with serving(ScriptedEngine(flag_both, thoughts=think), chosen) as found:
        yield found


def ask(page: Page, **fields: str) -> None:
    page.fill("#question", QUESTION)
    page.fill("#response-a", RESPONSE)
    page.locator("#form details").evaluate("details => details.open = true")
    for name, value in {"outcome": "0", "seed": "7", "thinking": str(BUDGET), **fields}.items():
        element = page.locator(f"#{name}")
        if element.evaluate("e => e.tagName") == "SELECT":
            element.select_option(value)
        else:
            element.fill(value)
    with page.expect_response("**/credit") as answer:
        page.click("#credit")
    assert answer.value.ok
    expect(page.locator("#result")).to_be_visible()


def accessible(page: Page) -> None:
    for _ in range(2):
        found = Axe().run(page)
        assert found.violations_count == 0, found.generate_report()
        width = page.evaluate("document.documentElement.scrollWidth")
        assert page.viewport_size and width <= page.viewport_size["width"]
        page.click("#theme")


def test_thoughts_are_folded_under_their_critiques(page: Page, service: Service) -> None:
    visit(page, service.url)
    with page.expect_request("**/credit") as sent:
        ask(page)
    asked = sent.value.post_data_json
    assert asked["voting"]["thinking_tokens"] == BUDGET and "temperature" not in asked["voting"]
    assert "thinking" in asked["include"]
    critiques = page.locator(".critiques > li")
    expect(critiques.nth(0).locator("summary").first).to_have_text(
        "critique 1 · wrong steps: 0, 1 · complete (finish reason stop) · "
        f"thought of {len(THOUGHT)} tokens"
    )
    expect(critiques.nth(1).locator("summary").first).to_have_text(
        re.compile(f"thought of {BUDGET} tokens, budget reached$")
    )
    facts = page.locator(".facts")
    expect(facts).to_contain_text("2 of 4 thoughts reached the budget")
    thinking = f"{2 * (len(THOUGHT) + BUDGET):,}"
    expect(facts).to_contain_text(f"completion tokens ({thinking} of thoughts)")
    thought = critiques.nth(0).locator("details.thought")
    critiques.nth(0).locator("summary").first.click()
    expect(thought.locator(".thought-text")).to_be_hidden()
    thought.locator("summary").click()
    body = thought.locator(".thought-text")
    expect(body.locator(".formula.shown math")).to_have_count(1)
    # It is text, whatever it says.
    expect(body).to_contain_text("<img src=x onerror=")
    expect(body).to_contain_text("</think> </details></script>")
    inside = body.evaluate("e => [...e.querySelectorAll('img, b, a, script')].length")
    assert inside == 0 and page.title() != "run"
    expect(critiques.nth(1)).not_to_contain_text("was ended here", use_inner_text=True)
    critiques.nth(1).locator("summary").first.click()
    critiques.nth(1).locator("summary").nth(1).click()
    expect(critiques.nth(1)).to_contain_text("reached its budget and was ended here")
    accessible(page)
    # The raw text is a key away, and is what is copied.
    assert copied(page) == THOUGHT
    page.locator(".step").first.focus()
    page.keyboard.press("m")
    expect(body.locator(".formula")).to_have_count(0)
    assert body.evaluate("e => e.textContent") == THOUGHT
    page.keyboard.press("m")
    page.fill("#k", "2")  # another vote leaves open what is open
    expect(page.locator(".thought-text").first).to_be_visible()
    expect(page.locator(".thought-text .formula.shown").first).to_be_visible()


def copied(page: Page) -> str:
    page.locator(".thought-text").first.evaluate("e => getSelection().selectAllChildren(e)")
    page.keyboard.press("Control+c")
    return str(page.evaluate("navigator.clipboard.readText()"))


def test_the_prompt_shows_profile_budget_and_markers(page: Page, service: Service) -> None:
    visit(page, service.url)
    ask(page)
    page.locator(".prompt summary").click()
    prompt = page.locator(".prompt")
    expect(prompt.locator(".facts")).to_contain_text("judge profile default")
    expect(prompt.locator(".facts")).to_contain_text(f"thinking budget {BUDGET} tokens")
    expect(prompt.locator("h4").last).to_have_text("assistant (thought and critique)")
    expect(prompt.locator("pre").last).to_have_text(
        re.compile(r"^<think>\n\(thought, at most \d+ tokens\)</think>\n\n\(critique\)$")
    )
    accessible(page)
    ask(page, thinking="0")
    page.locator(".prompt summary").click()
    expect(page.locator(".prompt .facts")).to_contain_text("no thinking")
    assert page.locator(".critiques .thought").count() == 0


def test_thoughts_of_a_result_that_has_no_texts(
    page: Page, service: Service, tmp_path: Path
) -> None:
    asked = {
        "rollouts": [{"question": QUESTION, "response": RESPONSE, "outcome": 0}],
        "voting": {"thinking_tokens": BUDGET, "seed": 3, "early_stop": False},
        "include": ["critiques", "response"],
    }
    answer = httpx.post(f"{service.url}/credit", json=asked, timeout=60).json()
    (tmp_path / "answer.json").write_text(json.dumps(answer))
    visit(page, service.url)
    page.click("#tab-rollouts")
    page.set_input_files("#rollout-files", tmp_path / "answer.json")
    page.locator("#view-rollouts button.open").first.click()
    first = page.locator("#view-rollouts .critiques > li").first
    first.locator("summary").click()
    expect(first).to_contain_text('requested without include "thinking"')
    accessible(page)


def test_the_live_view_draws_thoughts(page: Page, service: Service) -> None:
    visit(page, service.url)
    ask(page)
    page.click("#tab-live")
    charts = page.locator("#view-live .chart")
    expect(charts.filter(has_text="Thoughts that reached their budget")).to_be_visible()
    expect(charts.filter(has_text="Mean length of thoughts")).to_be_visible()
    page.wait_for_timeout(2500)  # a sample after the request
    said = page.get_by_role("img", name=re.compile("Thoughts that reached their budget: 50%"))
    page.click("#tab-inspect")
    ask(page, seed="8")
    page.click("#tab-live")
    expect(said).to_be_visible()
    accessible(page)


CRITERIA = [
    {
        "id": "rounds",
        "kind": "pitfall",
        "weight": 1.0,
        "label": "C0",
        "holds": True,
        "share": 0.75,
        "step": 0,
        "votes": {"holds": 3, "valid": 4, "asked": 4},
        "reward": -0.5,
    },
    {
        "id": "answer",
        "kind": "requirement",
        "weight": 2.0,
        "label": "C1",
        "holds": True,
        "share": 1.0,
        "step": None,
        "votes": {"holds": 4, "valid": 4, "asked": 4},
        "reward": 0.5,
    },
    {
        "id": "checks",
        "kind": "bonus",
        "weight": 1.0,
        "label": "C2",
        "holds": False,
        "share": 0.0,
        "step": None,
        "votes": {"holds": 0, "valid": 4, "asked": 4},
        "reward": 0.0,
    },
    {
        "id": "left",
        "kind": "bonus",
        "weight": 9.0,
        "label": None,
        "holds": False,
        "share": 0.0,
        "step": None,
        "votes": {"holds": 0, "valid": 0, "asked": 0},
        "reward": 0.0,
    },
]


def result(**more: Any) -> dict[str, Any]:
    """A result of four steps, of which the second half was judged in a window of its own."""
    return {
        "id": "0",
        "status": "ok",
        "response": "a\n\nb\n\nc\n\nd",
        "suspicion": [],
        "outcome": {"value": 1.0, "source": "caller"},
        "steps": [
            {
                "index": i,
                "span": [3 * i, min(3 * i + 3, 10)],
                "token_span": None,
                "wrong": i == 2,
                "penalty": float(i == 2),
                "votes": {"wrong": 2 * (i == 2), "valid": 2, "asked": 2},
                "reward": 2.0 - (i == 2),
            }
            for i in range(4)
        ],
        "critiques": [
            {
                "text": "{}",
                "wrong_steps": [2] if window else [],
                "valid": True,
                "window": window,
                "finish_reason": "stop",
                "critic": "judge",
                "weight": 1,
                "judged_steps": [2 * window, 2 * window + 2],
            }
            for window in (0, 0, 1, 1)
        ],
        "usage": {
            "critiques_run": 4,
            "prompt_tokens": 9,
            "cached_tokens": 0,
            "completion_tokens": 9,
            "thinking_tokens": 0,
        },
        "windows": 2,
        **more,
    }


def opened(page: Page, service: Service, folder: Path, found: dict[str, Any]) -> None:
    """Show a result in the Inspect view."""
    (folder / "answer.json").write_text(json.dumps({"id": "cr_1", "results": [found]}))
    visit(page, service.url)
    page.click("#tab-rollouts")
    page.set_input_files("#rollout-files", folder / "answer.json")
    page.locator("#view-rollouts button.open").first.click()
    page.get_by_role("button", name="Open in Inspect").click()
    expect(page.locator("#view-inspect .step")).to_have_count(len(found["steps"]))


def test_windows_are_shown_and_keep_their_own_votes(
    page: Page, service: Service, tmp_path: Path
) -> None:
    opened(page, service, tmp_path, result())
    expect(page.locator("#view-inspect .facts").first).to_contain_text("judged in 2 windows")
    expect(page.locator("#view-inspect")).to_contain_text("Each window of steps was voted on")
    assert page.locator("#view-inspect .step .count").all_inner_texts() == [
        "0/2",
        "0/2",
        "2/2",
        "0/2",
    ]
    expect(page.locator("#view-inspect .critiques summary").last).to_contain_text(
        "critique 4 · window 1 (steps 2 to 3) · wrong steps: 2"
    )
    cells = page.locator("#view-inspect .matrix tbody tr").nth(3).locator("td").all_inner_texts()
    assert cells == ["in another window", "in another window", "wrong", "right"]
    page.select_option("#method", "union")
    page.fill("#w_process", "3")
    shown = page.locator("#view-inspect .step > .reward").all_inner_texts()
    assert shown == ["+2.00", "+2.00", "−1.00", "+2.00"]
    accessible(page)


def test_criteria_are_a_table_and_a_scheme(page: Page, service: Service, tmp_path: Path) -> None:
    opened(page, service, tmp_path, result(criteria=CRITERIA, windows=1))
    rows = page.locator("#view-inspect table.criteria tbody tr")
    expect(rows).to_have_count(4)
    expect(rows.nth(0)).to_have_text("roundspitfallyes (75%)step 03 of 41−0.19")
    expect(rows.nth(1)).to_have_text("answerrequirementyeswhole response4 of 42+0.50")
    expect(rows.nth(3)).to_contain_text("left out (dropout)")
    assert page.input_value("#scheme") == "criteria"  # the result's rewards have them
    page.fill("#w_criteria", "2")
    shown = page.locator("#view-inspect .step > .reward").all_inner_texts()
    voted = [VotedCriterion(c["kind"], c["weight"], c["share"], c["step"]) for c in CRITERIA[:3]]  # type: ignore[arg-type]
    added = rewards_by_step(voted, 2.0, 4)
    expected = rewards.step_rewards("criteria", [0, 0, 1, 0], 1.0, 2.0, 1.0, added)
    assert [float(each.replace("−", "-")) for each in shown] == pytest.approx(expected, abs=0.006)
    expect(rows.nth(0)).to_contain_text("−0.38")
    accessible(page)


def test_criteria_of_the_form_are_sent(page: Page, service: Service) -> None:
    visit(page, service.url)
    script = "async t => (await import('/ui/form.js')).readCriteria(t)"
    found = page.evaluate(
        script, "Pitfall:  It rounds: too early.\n\n says why \nbonus: It checks."
    )
    assert found == [
        {"id": "c1", "kind": "pitfall", "text": "It rounds: too early."},
        {"id": "c2", "kind": "requirement", "text": "says why"},
        {"id": "c3", "kind": "bonus", "text": "It checks."},
    ]


def test_a_narrow_screen(browser: Browser, service: Service, tmp_path: Path) -> None:
    with browsing(browser, 360, 740) as page:
        visit(page, service.url)
        ask(page)
        page.locator(".critiques > li").nth(1).locator("summary").first.click()
        page.locator(".critiques > li").nth(1).locator("summary").nth(1).click()
        expect(page.locator(".thought-text .formula.shown").first).to_be_visible()
        page.locator(".prompt summary").click()
        expect(page.locator(".prompt h4").first).to_be_visible()
        accessible(page)
        opened(page, service, tmp_path, result(criteria=CRITERIA))
        accessible(page)


def test_exact_votes_are_shown_as_shares(page: Page, service: Service, tmp_path: Path) -> None:
    found = result(windows=1, exact={"decided": True, "unread": 0.0})
    for step, share in zip(found["steps"], (0.0, 0.25, 0.834, 1.0), strict=True):
        step["votes"] |= {"share": share}
        step["wrong"], step["penalty"] = share >= 0.5, float(share >= 0.5)
    found["critiques"] = [
        {**critique, "window": 0, "judged_steps": None, "share": 0.5}
        for critique in found["critiques"][:2]
    ]
    opened(page, service, tmp_path, found)
    counts = page.locator("#view-inspect .step .count").all_inner_texts()
    assert counts == ["0%", "25%", "83%", "100%"]
    marked = page.locator("#view-inspect .step.wrong").count()
    assert marked == 2  # as the service voted, and not as the critiques counted again would
