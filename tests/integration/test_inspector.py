"""The inspector in Chromium before the real judge: pasted, credited, voted again, fully tokenized."""

from __future__ import annotations

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect, sync_playwright

from capo_client.cli import demo
from kit_browser import browsing, launch, visit
from kit_engine import Running


def test_a_rollout_is_judged_and_looked_at(vllm_service: Running) -> None:
    example = demo.load_examples()[0]
    with sync_playwright() as playwright:
        browser = launch(playwright)
        with browsing(browser) as page:
            page.set_default_timeout(90_000)
            visit(page, vllm_service.url)
            expect(page.locator("#judge")).to_contain_text("SmolLM2-135M-Instruct")
            page.fill("#question", example.question)
            page.fill("#response-a", example.response)
            page.fill("#n", "6")
            page.select_option("#compare", "rollout")
            page.fill("#response-b", "No idea.")
            page.click("#credit")
            expect(page.locator(".rollout")).to_have_count(2, timeout=90_000)
            first = page.locator(".rollout").first
            assert first.locator(".matrix tbody tr").count() == 6
            # The judge's own tokenizer cut the text: every token is shown, once, in order.
            numbers = first.locator(".token").evaluate_all(
                "all => all.map(e => Number(e.dataset.token))"
            )
            assert numbers == list(range(len(numbers))) and len(numbers) > 20
            wrong = []
            for method in ("union", "majority", "intersection"):
                page.select_option("#method", method)
                wrong.append(first.locator(".step.wrong").count())
            assert wrong == sorted(wrong, reverse=True)
            found = Axe().run(page)
            assert found.violations_count == 0, found.generate_report()
        browser.close()
