"""The Live and Training views in a real Chromium."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, Route, expect

from capo_service.pipeline.critics import SymbolicCritic
from kit_browser import browsing, visit
from kit_service import Service, serving, settings

QUESTION = "A bakery bakes 12 trays with 8 rolls each and sells 75. How many are left?"
WRONG = "It bakes 12 * 8 = 86 rolls 🥐.\n\nThen 86 - 75 = 11 are left.\n\n#### 11"
RIGHT = "It bakes 12 * 8 = 96 rolls.\n\nThen 96 - 75 = 21 are left.\n\n#### 21"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("service")
    chosen = settings(folder, live_rollouts=20, canary_seconds=0.2)
    with serving(SymbolicCritic(), chosen) as found:
        yield found


def ask(service: Service, *responses: str, run: str = "run-a") -> str:
    """Credit rollouts; the id of the answer."""
    rollouts = [{"question": QUESTION, "response": each, "reference": "21"} for each in responses]
    answer = httpx.post(
        f"{service.url}/credit", json={"rollouts": rollouts, "run": run}, timeout=60
    )
    return str(answer.raise_for_status().json()["id"])


def accessible(page: Page) -> None:
    found = Axe().run(page)
    assert found.violations_count == 0, found.generate_report()
    width = page.evaluate("document.documentElement.scrollWidth")
    assert page.viewport_size and width <= page.viewport_size["width"]


def test_the_live_view(page: Page, service: Service) -> None:
    ask(service, WRONG)
    ask(service, RIGHT, run="run-b")
    visit(page, service.url)
    page.click("#tab-live")
    expect(page.locator(".chart")).to_have_count(6)
    rows = page.locator("#view-live table tbody tr")
    expect(rows.first).to_contain_text("run-b")
    expect(page.locator("#view-live [role=status]").first).to_have_text(
        re.compile(r"^symbolic, last (\d+ minutes|minute)$")
    )
    expect(
        page.get_by_role("img", name=re.compile("Known-answer accuracy: good 100%"))
    ).to_be_visible()
    wrong = page.locator(".chart", has_text="Steps flagged as wrong")
    expect(wrong.locator("path")).to_have_attribute("d", re.compile("M.*L"))
    accessible(page)
    page.locator("#view-live [name=shown]").select_option("wrong")
    expect(wrong).to_contain_text("(1 filtered rollouts)")
    page.locator("#view-live [name=shown]").select_option("all")
    page.locator("#view-live [name=run]").select_option("run-a")
    assert rows.count() == 1
    page.locator("#view-live button.open").first.click()
    expect(page.locator("#view-live .step")).to_have_count(3)
    page.wait_for_timeout(2500)  # a later answer of the service must not close it
    expect(page.locator("#view-live .step")).to_have_count(3)
    page.get_by_role("button", name="Open in Inspect").click()
    expect(page.locator("#view-inspect .step")).to_have_count(3)


def serve(answer: dict[str, Any]) -> Callable[[Route], None]:
    return lambda route: route.fulfill(json=answer)


def test_the_live_view_says_how_far_back_it_goes(browser: Browser, service: Service) -> None:
    latest = httpx.get(f"{service.url}/live").json()
    sample = {**latest["samples"][-1], "canary_good": None}
    for count, told in ((20, "last minute"), (150, "last 5 minutes")):
        answer = {**latest, "samples": [{**sample, "at": 1e9 + 2 * i} for i in range(count)]}
        with browsing(browser) as page:
            visit(page, service.url)
            page.route("**/live?*", serve(answer))
            page.click("#tab-live")
            expect(page.locator("#view-live [role=status]").first).to_have_text(f"symbolic, {told}")


def test_a_link_opens_a_live_rollout(browser: Browser, service: Service) -> None:
    one, two = ask(service, WRONG), ask(service, WRONG, RIGHT)
    with browsing(browser) as page:
        visit(page, f"{service.url}/#r={one}")
        expect(page.locator("#view-live .rollout h2")).to_have_text(f"{one}/0")
        link = page.get_by_role("link", name="Permanent link")
        assert link.get_attribute("href") == f"#r={one}%2F0"
        page.goto(f"{service.url}/#r={two}%2F1")
        expect(page.locator("#view-live .rollout h2")).to_have_text(f"{two}/1")
        page.keyboard.press("Escape")
        page.goto(f"{service.url}/#r={two}")
        expect(page.locator("#view-live .count-of-rows")).to_contain_text("2 of")
        page.goto(f"{service.url}/#r=cr_<b>none")
        expect(page.locator("#view-live")).to_contain_text("is not among the rollouts")
        page.goto(f"{service.url}/#r=%E0")
        expect(page.locator("#view-live")).to_contain_text("%E0 is not among the rollouts")


def test_a_link_that_is_followed_while_an_answer_is_awaited_shows_nothing_twice(
    browser: Browser, service: Service
) -> None:
    one = ask(service, WRONG)
    with browsing(browser) as page:
        visit(page, service.url)
        page.route("**/live?*", lambda route: (page.wait_for_timeout(300), route.continue_()))
        page.click("#tab-live")
        page.evaluate("name => { location.hash = `r=${name}`; }", one)
        expect(page.locator("#view-live .rollout h2")).to_have_text(f"{one}/0")
        page.keyboard.press("Escape")
        page.locator("#view-live input[type=search]").fill(one)
        expect(page.locator("#view-live .count-of-rows")).to_have_text(
            re.compile(r"^1 (of|rollouts)")
        )


def test_the_live_view_keeps_no_rollouts_by_default(page: Page, tmp_path: Path) -> None:
    with serving(SymbolicCritic(), settings(tmp_path)) as service:
        ask(service, WRONG)
        visit(page, service.url)
        page.click("#tab-live")
        expect(page.locator("#view-live")).to_contain_text("live_rollouts=200")


def run_files(folder: Path, share: float = 0.2, steps: int = 3) -> list[Path]:
    """What a trainer wrote of a few steps; tests/trainer writes real ones and the demo looks at them."""
    metrics: list[dict[str, Any]] = [
        {
            "kind": "train",
            "step": step,
            "rollouts": 4,
            "accuracy": share * step,
            "wrong_step_rate": 0.5 / step,
            "mean_tokens": 40.0,
            "loss": 0.1,
            "uncredited": 1,
            "grad_norm": 2.0,
            "judge_completion_tokens": 100,
            "judge_prompt_tokens": 400,
        }
        for step in range(1, steps + 1)
    ]
    metrics.append(
        {"kind": "evaluation", "step": steps, "greedy_accuracy": 0.7, "greedy_wrong_step_rate": 0.1}
    )
    votes = {"valid": 1, "asked": 1}
    rollouts = [
        {
            "step": step,
            "question": QUESTION,
            "response": WRONG,
            "tokens": 9,
            "method": "majority",
            "w_whole": 2.0,
            "w_process": 1.0,
            "credit": {
                "id": "0",
                "status": "ok",
                "outcome": {"value": 0.0, "source": "caller"},
                "usage": {
                    "critiques_run": 1,
                    "prompt_tokens": 0,
                    "completion_tokens": 0,
                    "cached_tokens": 0,
                },
                "steps": [
                    {
                        "index": 0,
                        "span": [0, len(WRONG)],
                        "token_span": None,
                        "wrong": step < 3,
                        "penalty": float(step < 3),
                        "votes": {"wrong": int(step < 3), **votes},
                        "reward": 0.0,
                    }
                ],
                "critiques": [
                    {
                        "text": "x",
                        "wrong_steps": [0] if step < 3 else [],
                        "valid": True,
                        "finish_reason": "stop",
                    }
                ],
            },
        }
        for step in (1, 1, 2, 3)
    ]
    folder.mkdir(exist_ok=True)
    (folder / "metrics.jsonl").write_text(
        "".join(json.dumps(each) + "\n" for each in metrics) + '{"kind": "tr'
    )
    (folder / "rollouts.jsonl").write_text("".join(json.dumps(each) + "\n" for each in rollouts))
    return [folder / "metrics.jsonl", folder / "rollouts.jsonl"]


def test_the_training_view(page: Page, service: Service, tmp_path: Path) -> None:
    visit(page, service.url)
    page.click("#tab-training")
    page.set_input_files("#run-files", run_files(tmp_path))
    expect(page.locator("#view-training [role=status]").first).to_have_text(
        "1 run, 3 training steps, 4 rollouts, 1 line could not be read"
    )
    chart = page.get_by_role("img", name="Correct answers: train 60%, evaluation 70%")
    expect(chart).to_be_visible()
    # Units and the name of x stand at the axes.
    expect(chart.locator("text", has_text="training step")).to_have_count(1)
    expect(
        page.locator(".chart", has_text="Judge tokens").locator("text", has_text="tokens")
    ).to_have_count(1)
    expect(page.get_by_role("img", name="(fallback): 25%")).to_be_visible()
    expect(page.locator(".slider .range")).to_have_text(["1", "3"])
    told = page.locator("#view-training output[for=run-step]")
    expect(told).to_contain_text("step 1: 2 rollouts, 2 of 2 steps wrong")
    accessible(page)
    page.focus("#run-step")
    page.keyboard.press("End")
    expect(told).to_contain_text("step 3: 1 rollout, 0 of 1 steps wrong")
    accessible(page)
    page.locator("#view-training button.open").first.click()
    expect(page.locator("#view-training .step")).to_have_count(1)
    page.keyboard.press("Escape")
    # The same files are open in the view of rollouts.
    page.click("#tab-rollouts")
    expect(page.locator("#view-rollouts tbody tr")).to_have_count(4)


@pytest.mark.parametrize(("width", "dark"), [(1280, True), (360, False)])
def test_several_runs_in_one_chart(
    browser: Browser, service: Service, tmp_path: Path, width: int, dark: bool
) -> None:
    first = run_files(tmp_path / "first", steps=30, share=0.02)
    second = run_files(tmp_path / "second", steps=30, share=0.03)
    with browsing(browser, width, 740) as page:
        visit(page, service.url)
        if dark:
            page.click("#theme")
        page.click("#tab-training")
        page.set_input_files("#run-files", [first[0], second[0]])
        names = page.locator(".runs input[type=text]")
        expect(names).to_have_count(2)
        names.nth(1).fill("higher")
        names.nth(1).press("Enter")
        chart = page.locator(".chart", has_text="Correct answers").first
        expect(chart.locator(".legend li")).to_have_text(
            ["run, train", "run, evaluation", "higher, train", "higher, evaluation"]
        )
        assert chart.locator("path.line:not(.faint)").count() == 4
        accessible(page)
        before = chart.locator("path.line").nth(0).get_attribute("d")
        page.locator("#run-smoothing").fill("0.8")
        expect(chart.locator("path.faint")).to_have_count(2)
        assert chart.locator("path.faint").first.get_attribute("d") == before
        assert chart.locator("path.line:not(.faint)").first.get_attribute("d") != before
        page.get_by_label("logarithmic axis").check()
        expect(chart.locator("text", has_text="%, log")).to_have_count(1)
        page.get_by_label("Add a curve").select_option("train.grad_norm")
        expect(page.locator(".chart", has_text="grad norm")).to_be_visible()
        page.get_by_label("Show run run").uncheck()
        expect(chart.locator("path.line:not(.faint)")).to_have_count(2)
        page.get_by_label("Show run run").check()
        with page.expect_download() as waiting:
            page.get_by_role("button", name="CSV").click()
        rows = list(csv.DictReader(io.StringIO(Path(waiting.value.path()).read_text())))
        assert len(rows) == 62 and {row["run"] for row in rows} == {"run", "higher"}
        assert [row["accuracy"] for row in rows if row["run"] == "higher"][:2] == ["0.03", "0.06"]
        accessible(page)


def test_numbers_of_other_trainers_are_curves(page: Page, service: Service, tmp_path: Path) -> None:
    visit(page, service.url)
    page.click("#tab-training")
    lines = [{"step": step, "loss": 1 / step, "capo_agreement": 0.9} for step in range(1, 5)]
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    page.set_input_files("#run-files", tmp_path / "log.jsonl")
    expect(page.get_by_role("img", name="Loss: 0.25")).to_be_visible()
    expect(page.get_by_role("img", name="Agreement of critiques: 90%")).to_be_visible()
