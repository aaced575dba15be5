"""The documentation's pictures of the inspector: a real service, a real Chromium.

    .venv/bin/python tools/pictures.py     # docs/pictures/*.png; needs the testbed (`capo testbed`)

The judge is the testbed's, which is good at one kind of story; the run is a few steps of training
its policy, in build/pictures-run; it is made once.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import browser
import httpx
from playwright.sync_api import Page, sync_playwright

from capo_testbed.experiment.questions import MAJORITY
from capo_testbed.experiment.settings import Scale, recipe_of
from capo_testbed.serving import serving
from capo_trainer.paths import testbed_folder
from capo_trainer.train import train as run_training

PICTURES = Path(__file__).resolve().parent.parent / "docs" / "pictures"
RUN = PICTURES.parent.parent / "build" / "pictures-run"
QUESTION = "Ann has 37 coins. Ann wins 25. Ann sells 8. Ann halves them. How many coins now?"
GOOD = "37 + 25 = 62\n\n62 - 8 = 54\n\n54 / 2 = 27\n\nThe answer is \\boxed{27}."
LUCKY = "37 + 25 = 52\n\n52 - 8 = 54\n\n54 / 2 = 27\n\nThe answer is \\boxed{27}."


def main() -> None:
    PICTURES.mkdir(exist_ok=True)
    settings = {"CAPO_LIVE_ROLLOUTS": "100", "CAPO_CANARY_SECONDS": "1", "CAPO_SYMBOLIC_VOTES": "4"}
    RUN.mkdir(parents=True, exist_ok=True)
    settings["CAPO_CANARY_FILE"] = str(probes())
    path = browser.find()
    run = next(RUN.rglob("metrics.jsonl"), None) or train()
    log = RUN / "service.log"
    with sync_playwright() as playwright, serving("testbed", log, **settings) as url:
        chromium = playwright.chromium.launch(executable_path=path, args=browser.FLAGS)
        page = chromium.new_page(viewport={"width": 1180, "height": 800})
        busy(url)
        take(page, url, run.parent)
        chromium.close()


def take(page: Page, url: str, run: Path) -> None:
    def picture(name: str, **options: Any) -> None:
        page.screenshot(path=PICTURES / f"{name}.png", **options)

    page.goto(url)
    page.wait_for_selector("html[data-ready]")
    page.fill("#question", QUESTION)
    page.fill("#response-a", LUCKY)
    page.fill("#n", "8")
    page.locator("#form details").evaluate("details => details.open = true")
    page.fill("#reference", "27")
    page.locator("#form details").evaluate("details => details.open = false")
    page.click("#credit")
    page.wait_for_selector(".step")
    page.locator(".beside summary").first.click()
    page.locator(".token").nth(3).hover()
    picture("inspect", full_page=True)
    page.select_option("#compare", "rollout")
    page.fill("#response-b", GOOD)
    page.click("#credit")
    page.wait_for_selector(".rollout + .rollout")
    page.click("#theme")
    page.check("#heat")
    page.locator("#result").evaluate("result => result.scrollIntoView()")
    picture("compare")
    page.click("#theme")
    page.click("#tab-live")
    page.wait_for_selector("#view-live table")
    page.wait_for_timeout(6000)
    page.evaluate("scrollTo(0, 0)")
    picture("live")
    page.click("#tab-training")
    page.set_input_files("#run-files", [run / "metrics.jsonl", run / "rollouts.jsonl"])
    page.wait_for_selector("#run-step")
    page.locator("#view-training .files summary").first.click()
    page.evaluate("scrollTo(0, 0)")
    picture("training")
    page.click("#tab-rollouts")
    page.wait_for_selector("#view-rollouts tbody tr")
    picture("rollouts")
    label(page)
    picture("labels")


def label(page: Page) -> None:
    """Credit a story in the Rollouts view, and label its first steps."""
    story = {"id": "story-1", "question": QUESTION, "response": LUCKY, "reference": "27"}
    (RUN / "stories.jsonl").write_text(json.dumps(story) + "\n")
    page.set_input_files("#rollout-files", RUN / "stories.jsonl")
    page.get_by_role("button", name="Credit 1 shown").click()
    page.fill("#view-rollouts [name=text]", "story-1")
    page.wait_for_selector("#view-rollouts .count-of-rows >> text=1 of")
    page.locator("#view-rollouts button.open").click()
    page.get_by_label("label steps").check()
    for step, key in enumerate("wwr"):
        page.locator("#view-rollouts .step").nth(step).focus()
        page.keyboard.press(key)


def probes() -> Path:
    """Known-answer probes that the testbed's judge was trained for."""
    lines = [
        {"question": QUESTION, "steps": text.split("\n\n"), "wrong_steps": wrong}
        for text, wrong in ((GOOD, []), (LUCKY, [0, 1]))
    ]
    path = RUN / "probes.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def busy(url: str) -> None:
    """A few minutes' worth of rollouts for the live view."""
    for number in range(40):
        rollouts = [
            {"question": QUESTION, "response": text.replace("7", str(number % 8)), "outcome": 1}
            for text in (GOOD, LUCKY)
        ]
        body = {"rollouts": rollouts, "run": f"run-{number % 2}", "voting": {"n": 8}}
        httpx.post(f"{url}/credit", json=body, timeout=60).raise_for_status()


def train() -> Path:
    """A short run of the testbed's policy, with the testbed's judge."""
    scale = Scale(steps=8, every=2)
    with serving("testbed", RUN / "service.log") as url:
        run_training(recipe_of(MAJORITY, 0, scale, testbed_folder(), RUN, url))
    return next(RUN.rglob("metrics.jsonl"))


if __name__ == "__main__":
    main()
