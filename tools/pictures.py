"""The documentation's pictures of the inspector: a real service, a real Chromium.

    .venv/bin/python tools/pictures.py     # docs/pictures/*.png; needs the testbed (`capo testbed`)

The judge is the testbed's, which is good at one kind of story; the run is a few steps of training
its policy, in build/pictures-run; it is made once.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import browser
import httpx
from playwright.sync_api import Page, sync_playwright

from capo_testbed.serving import serving

PICTURES = Path(__file__).resolve().parent.parent / "docs" / "pictures"
RUN = PICTURES.parent.parent / "build" / "pictures-run"
QUESTION = "Ann has 37 coins. Ann wins 25. Ann sells 8. Ann halves them. How many coins now?"
GOOD = "37 + 25 = 62\n\n62 - 8 = 54\n\n54 / 2 = 27\n\nThe answer is \\boxed{27}."
LUCKY = "37 + 25 = 52\n\n52 - 8 = 54\n\n54 / 2 = 27\n\nThe answer is \\boxed{27}."


def main() -> None:
    PICTURES.mkdir(exist_ok=True)
    settings = {"CAPO_LIVE_ROLLOUTS": "100", "CAPO_CANARY_SECONDS": "1", "CAPO_SYMBOLIC_VOTES": "4"}
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
    page.evaluate("scrollTo(0, 0)")
    picture("training", full_page=True)


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
    """A short run of the testbed's policy, by the command that users have for it."""
    module = "capo_testbed.demo"
    command = [sys.executable, "-m", module, "--out", str(RUN), "--steps", "8"]
    subprocess.run(command, check=True)
    return next(RUN.rglob("metrics.jsonl"))


if __name__ == "__main__":
    main()
