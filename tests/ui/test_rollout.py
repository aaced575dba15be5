"""The Inspect view in a real Chromium: formulas, words for votes, the judge's prompt, groups, keys."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from axe_playwright_python.sync_playwright import Axe
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st
from playwright.sync_api import Browser, Page, expect

from capo_service.engine.base import CritiqueSampling
from capo_service.pipeline.critics import SymbolicCritic
from capo_trainer.algorithm import advantages
from kit_browser import ROOT, browsing, visit
from kit_scripted import ScriptedEngine
from kit_service import Service, serving, settings

UI = ROOT / "service" / "capo_service" / "ui"
QUESTION = "Tom earns $5 and $7. How much is that, and what is $\\frac{1}{2}$ of it?"
MATHS = (
    "He earns $5 and $7, so \\(5 + 7 = 13\\).\n\n"
    "Half of it is $\\frac{13}{2}$ 🥐, so\n$$x = \\sqrt{42.25}$$\n\n"
    "The answer is \\boxed{6.5}."
)
RIGHT = "He earns 5 + 7 = 12.\n\nThe answer is \\boxed{6}."


def flag_first(prompt: str, sampling: CritiqueSampling) -> str:
    wrong = "0" if "13" in prompt else ""
    return f'{{"analysis": "See step 0.", "incorrect_steps": [{wrong}]}}'


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A judge that flags step 0, and an arithmetic checker with a weight of 4."""
    chosen = settings(
        tmp_path_factory.mktemp("service"),
        symbolic_votes=4,
        critique_style="brief",
        model="scripted",
    )
    with serving(ScriptedEngine(flag_first), chosen) as found:
        yield found


def ask(page: Page, response: str = MATHS, **fields: str) -> None:
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
    expect(page.locator("#result")).to_be_visible()


def accessible(page: Page) -> None:
    found = Axe().run(page)
    assert found.violations_count == 0, found.generate_report()


def in_both_themes(page: Page) -> None:
    accessible(page)
    page.click("#theme")
    accessible(page)
    page.click("#theme")


def test_formulas_are_rendered_and_raw_text_is_a_key_away(page: Page, service: Service) -> None:
    visit(page, service.url)
    ask(page, tokenizer="gpt2")
    formulas = page.locator(".step .formula")
    expect(page.locator(".formula.shown math")).to_have_count(4)
    raw = formulas.evaluate_all("all => all.map(e => e.dataset.raw)")
    assert raw == ["\\(5 + 7 = 13\\)", "$\\frac{13}{2}$", "$$x = \\sqrt{42.25}$$", "\\boxed{6.5}"]
    assert page.locator(".formula.display").count() == 1
    # Dollar amounts stay text, and the text between formulas still has its tokens.
    expect(page.locator(".step-text").first).to_contain_text("He earns $5 and $7, so")
    assert page.locator(".step .token").count() > 10
    formulas.first.hover()
    expect(page.locator(".tip")).to_contain_text(re.compile(r"tokens \d+ to \d+ · reward −1.00"))
    in_both_themes(page)
    page.locator(".step").first.focus()
    page.keyboard.press("m")
    assert page.locator(".formula").count() == 0
    tokens = page.locator(".token").evaluate_all(
        "all => all.map(e => [Number(e.dataset.token), e.dataset.raw ?? e.textContent])"
    )
    assert [number for number, _ in tokens] == list(range(len(tokens)))
    assert "".join(text for _, text in tokens).replace("▹", "") == MATHS
    page.reload()
    page.wait_for_selector("html[data-ready]")
    assert not page.is_checked("#mathematics")  # the choice is kept
    page.evaluate("localStorage.removeItem('capo-mathematics')")


def test_heat_is_shown_on_the_raw_text(page: Page, service: Service) -> None:
    visit(page, service.url)
    ask(page, tokenizer="gpt2")
    expect(page.locator(".formula.shown")).to_have_count(4)
    page.check("#heat")
    assert page.locator(".formula").count() == 0
    page.uncheck("#heat")
    expect(page.locator(".formula.shown")).to_have_count(4)


def test_what_is_copied_is_the_raw_text(page: Page, service: Service) -> None:
    visit(page, service.url)
    ask(page, tokenizer="gpt2")
    expect(page.locator(".formula.shown")).to_have_count(4)
    assert copied(page, 0, 3) == MATHS
    assert copied(page, 1, 2).rstrip() == MATHS.split("\n\n")[1]
    # A part of a formula is all of it.
    assert (
        page.evaluate(
            """async () => {
            const { rawOf } = await import("/ui/math.js");
            const range = document.createRange();
            range.setStart(document.querySelector(".formula mn").firstChild, 0);
            range.setEndAfter(document.querySelector(".formula"));
            return rawOf(range);
        }"""
        )
        == "\\(5 + 7 = 13\\)"
    )


def copied(page: Page, first: int, after: int) -> str:
    """What Ctrl+C takes of some steps."""
    page.evaluate(
        """([first, after]) => {
            const all = document.querySelectorAll(".step-text");
            const range = document.createRange();
            range.setStart(all[first], 0);
            range.setEnd(all[after - 1], all[after - 1].childNodes.length);
            getSelection().removeAllRanges();
            getSelection().addRange(range);
        }""",
        [first, after],
    )
    page.keyboard.press("Control+c")
    return str(page.evaluate("navigator.clipboard.readText()"))


def find(page: Page, text: str) -> list[str]:
    script = "async t => (await import('/ui/math.js')).pieces(t)"
    parts = page.evaluate(script, text)
    assert "".join(part["raw"] for part in parts) == text
    return [part["tex"] for part in parts if "tex" in part]


@pytest.mark.parametrize(
    "text",
    [
        "$5 and $7",
        "It costs $5, or 10$ in all",
        "$1,000 to $2,000",
        "$5-$7",
        "She earns $18 * $2 = $36 daily",
        "$20 for 3 apples$ yes",
        "10$/kg and 5$/kg",
        "\\$5 and \\$6",
        "a $ b $ c",
        "\\boxed{",
        "\\( open",
        "$",
        "$$",
    ],
)
def test_no_formula_is_found_in(page: Page, service: Service, text: str) -> None:
    if not page.url.startswith(service.url):
        visit(page, service.url)
    assert find(page, text) == []


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("$x+1$, $12 \\times 8$ and $5", ["x+1", "12 \\times 8"]),
        ("$$a$$\\[b\\]\\(c\\)", ["a", "b", "c"]),
        ("so \\boxed{\\frac{1}{2}}.", ["\\boxed{\\frac{1}{2}}"]),
        ("\\begin{align}a&=b\\end{align}", ["\\begin{align}a&=b\\end{align}"]),
        ("$x = 5 \\text{ apples and pears}$", ["x = 5 \\text{ apples and pears}"]),
    ],
)
def test_formulas_are_found(page: Page, service: Service, text: str, found: list[str]) -> None:
    if not page.url.startswith(service.url):
        visit(page, service.url)
    assert find(page, text) == found


HOSTILE = [
    "\\def\\a{\\a}\\a",
    "\\def\\a{\\a\\a}\\a",
    "\\href{javascript:alert(1)}{x}",
    "\\htmlStyle{position:fixed}{x}",
    "\\includegraphics{http://example.com/x.png}",
    "\\rule{9999em}{9999em}",
    "{" * 400 + "}" * 400,
    "\\frac" * 150,
    "^{" * 200 + "}" * 200,
    "\\sqrt{" * 120 + "x" + "}" * 120,
    "\\kern-9999em x",
    "\\text{<img src=x onerror=alert(1)>}",
    "\\begin{matrix}" + "&" * 900 + "\\end{matrix}",
    "\\color{red}" * 80,
]


def test_hostile_formulas_neither_hang_nor_inject(page: Page, service: Service) -> None:
    visit(page, service.url)
    before = page.evaluate("document.documentElement.scrollWidth")
    response = "\n\n".join(f"Step: $${tex}$$ and more" for tex in HOSTILE)
    response += "\n\n" + "\\( $ \\boxed{ $$ " * 5000
    ask(page, response, tokenizer="")
    expect(page.locator(".step")).to_have_count(len(HOSTILE) + 1)
    page.wait_for_function(
        """() => [...document.querySelectorAll(".formula")].every(
            (e) => e.matches(".shown") || e.title.startsWith("Raw text"))"""
    )
    inside = page.locator(".step-text").evaluate_all(
        """all => all.flatMap(e => [...e.querySelectorAll("*")]).filter(e => e.matches("a, img, script, iframe, [href], [src], [style], [onerror]")).length"""
    )
    assert inside == 0
    # What cannot be shown says so, and the raw text stays.
    loop = page.locator(".step-text").first.locator(".formula")
    expect(loop).to_have_attribute("title", re.compile("not valid LaTeX"))
    assert loop.inner_text() == f"$${HOSTILE[0]}$$"
    assert page.locator(".formula.shown").count() < len(HOSTILE)
    assert page.evaluate("document.documentElement.scrollWidth") <= before


def test_the_formula_renderer_is_the_published_one() -> None:
    digest = hashlib.sha256((UI / "vendor" / "katex.min.js").read_bytes()).hexdigest()
    assert digest in (UI / "vendor" / "README.md").read_text()
    assert "MIT" in (UI / "vendor" / "katex-license.txt").read_text()


def test_votes_are_said_in_words(page: Page, service: Service) -> None:
    visit(page, service.url)
    ask(page)
    summary = page.locator(".step").first.locator(".beside summary")
    expect(summary).to_have_text("Flagged by 4 of 4 judge votes + arithmetic (weight 4)")
    assert page.locator(".step .count").first.inner_text() == "4/4"
    expect(page.locator(".facts")).to_contain_text("4 critiques + arithmetic")
    page.fill("#k", "1")
    expect(summary).to_have_text("Flagged by 1 of 1 judge vote + arithmetic (weight 4)")
    expect(page.locator(".critiques summary").first).to_have_text(
        "critique 1 · wrong steps: 0 · complete (finish reason stop)"
    )


def test_the_judges_prompt(page: Page, service: Service) -> None:
    visit(page, service.url)
    ask(page, seed="5")
    with page.expect_request("**/prompt") as sent:
        page.locator(".prompt summary").click()
    assert sent.value.post_data_json["voting"]["seed"] == 5
    prompt = page.locator(".prompt")
    expect(prompt.locator("h4")).to_have_text(["system", "user"])
    expect(prompt.locator("pre").nth(1)).to_contain_text(QUESTION)
    expect(prompt.locator(".facts")).to_contain_text(
        re.compile(r"[\d,]+ tokens.*temperature 0.7.*seeds \d+, \d+, \d+, \d+")
    )
    expect(prompt).to_contain_text("stand-in")
    in_both_themes(page)
    page.select_option("#method", "union")  # the prompt stays open
    expect(prompt.locator("h4")).to_have_text(["system", "user"])
    page.fill("#seed", "")


GROUP = f"{RIGHT}\n---\nNot known.\n\nThe answer is \\boxed{{6}}."


def test_a_group_with_its_advantages(page: Page, service: Service) -> None:
    visit(page, service.url)
    ask(
        page,
        MATHS,
        compare="group",
        reference="6",
        outcome="",
        tokenizer="gpt2",
        **{"response-b": GROUP},
    )
    expect(page.locator(".rollout")).to_have_count(3)
    group = page.locator(".group")
    expect(group.locator(".facts")).to_contain_text("2 of 3 answers right")
    assert group.locator("tbody tr").count() == 3
    shown = page.locator(".advantage").all_inner_texts()
    assert shown[0].startswith("A −") and shown[-1].startswith("A +")
    # By hand: tokens, and the rewards of eq. 1, of each step.
    runs = page.locator(".step").evaluate_all(
        """all => all.map(e => [e.querySelector(".reward").firstChild.data, e.querySelectorAll(".token").length])"""
    )
    values = torch.tensor([float(r.replace("−", "-")) for r, n in runs for _ in range(n)])
    expected = (values - values.mean()) / values.std(correction=0)
    assert float(shown[0].removeprefix("A ").replace("−", "-")) == pytest.approx(
        float(expected[0]), abs=0.006
    )
    assert page.is_checked("#heat") and page.locator(".by-advantage .token").count() > 20
    in_both_themes(page)
    page.fill("#w_process", "0")
    page.fill("#w_whole", "0")
    expect(group.locator(".note")).to_contain_text("all advantages are 0")
    page.select_option("#scheme", "capo")
    page.fill("#w_whole", "2")
    page.fill("#w_process", "1")


def test_a_group_of_a_file_is_opened(page: Page, service: Service, tmp_path: Path) -> None:
    """Rollouts of one question in one training step; another step's are not among them."""
    texts = [MATHS, RIGHT, "Not known.\n\nThe answer is \\boxed{6}."]
    rollouts = [{"question": QUESTION, "response": text, "reference": "6"} for text in texts]
    asked = {"rollouts": rollouts, "include": ["critiques", "token_rewards"]}
    results = httpx.post(f"{service.url}/credit", json=asked, timeout=60).json()["results"]
    common = {
        "question": QUESTION,
        "tokens": 9,
        "method": "union",
        "w_whole": 2.0,
        "w_process": 1.0,
    }
    lines = [
        {"step": step, "response": text, "credit": result, **common}
        for step in (1, 2)
        for text, result in zip(texts, results, strict=True)
    ]
    (tmp_path / "rollouts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    visit(page, service.url)
    page.click("#tab-rollouts")
    page.set_input_files("#rollout-files", tmp_path / "rollouts.jsonl")
    page.locator("#view-rollouts button.open").first.click()
    page.get_by_role("button", name="Group of 3").click()
    expect(page.locator("#view-inspect .rollout")).to_have_count(3)
    expect(page.locator(".group")).to_contain_text("2 of 3 answers right")
    assert page.input_value("#method") == "union"
    accessible(page)
    page.select_option("#method", "majority")


runs = st.lists(
    st.lists(st.tuples(st.integers(-3, 3), st.integers(0, 5)), min_size=1, max_size=4),
    min_size=1,
    max_size=5,
)


@examples(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(runs)
def test_advantages_are_those_of_the_trainer(
    page: Page, service: Service, group: list[list[tuple[int, int]]]
) -> None:
    if not page.url.startswith(service.url):
        visit(page, service.url)
    sent = [[{"reward": reward / 2, "tokens": n} for reward, n in rollout] for rollout in group]
    script = "async g => (await import('/ui/group.js')).groupAdvantages(g).advantages"
    found: list[list[float]] = page.evaluate(script, sent)
    tokens = [[r / 2 for r, n in rollout for _ in range(n)] for rollout in group]
    longest = max(map(len, tokens))
    process = torch.tensor([row + [0.0] * (longest - len(row)) for row in tokens])
    mask = torch.tensor([[i < len(row) for i in range(longest)] for row in tokens])
    if not longest:
        return
    zeros = torch.zeros(len(group), dtype=torch.long)
    expected = advantages(torch.zeros(len(group)), process, mask, zeros)
    mine = [
        [value for value, (_, n) in zip(row, rollout, strict=True) for _ in range(n)]
        for row, rollout in zip(found, group, strict=True)
    ]
    assert [value for row in mine for value in row] == pytest.approx(
        expected[mask].tolist(), abs=1e-5
    )


def test_keys(page: Page, service: Service) -> None:
    visit(page, service.url)
    ask(page, compare="group", reference="6", outcome="", **{"response-b": RIGHT})
    expect(page.locator(".rollout")).to_have_count(2)
    page.locator("#result h2").first.click()
    page.keyboard.press("j")
    expect(page.locator(".step").nth(0)).to_be_focused()
    page.keyboard.press("j")
    expect(page.locator(".step").nth(1)).to_be_focused()
    page.keyboard.press("k")
    expect(page.locator(".step").nth(0)).to_be_focused()
    page.keyboard.press("n")
    expect(page.locator(".rollout").nth(1)).to_be_focused()
    page.keyboard.press("p")
    expect(page.locator(".rollout").nth(0)).to_be_focused()
    for key, method in enumerate(["intersection", "majority", "union", "average", "greedy"], 1):
        page.keyboard.press(str(key))
        assert page.input_value("#method") == method
    # Not in a field.
    page.fill("#question", "")
    page.focus("#question")
    page.keyboard.type("jm?1")
    assert page.input_value("#question") == "jm?1" and page.locator("dialog[open]").count() == 0
    page.locator(".rollout h2").first.click()
    page.keyboard.press("?")
    help_ = page.get_by_role("dialog", name="Keys")
    expect(help_).to_contain_text("formulas and tool calls rendered, or the raw text")
    accessible(page)
    page.keyboard.press("2")  # the page behind does not listen
    assert page.input_value("#method") == "greedy"
    page.keyboard.press("Escape")
    expect(help_).to_be_hidden()
    page.click("#help")
    expect(help_).to_be_visible()
    page.get_by_role("button", name="Close").click()
    page.select_option("#method", "majority")


def test_the_theme_button_names_what_it_does(page: Page, service: Service) -> None:
    visit(page, service.url)
    for theme in ("dark", "light"):
        page.get_by_role("button", name=f"Switch to {theme}").click()
        assert page.evaluate("document.documentElement.dataset.theme") == theme


def test_words_where_the_service_serves_no_tokenizer(page: Page, tmp_path: Path) -> None:
    with serving(SymbolicCritic(), settings(tmp_path, tokenizers={})) as service:
        visit(page, service.url)
        with page.expect_request("**/credit") as sent:
            ask(page, "It is 12 * 8 = 86 🥐 rolls.\n\nSo  86.\n")
        rollout = sent.value.post_data_json["rollouts"][0]
        assert rollout["token_offsets"][-2:] == [[26, 30], [30, 36]]
        expect(page.locator("#tokenizer option").first).to_have_text(
            "words, because the service serves no tokenizer"
        )
        expect(page.locator(".tip")).to_contain_text(
            "Tokens: words, because the service serves no tokenizer."
        )
        page.locator(".token").nth(6).hover()
        expect(page.locator(".tip")).to_have_text('" 86" · word 6 · reward −1.00')
        shown = page.locator(".token").all_inner_texts()
        assert "".join(shown) == "It is 12 * 8 = 86 🥐 rolls.So  86.\n"


def test_each_example_can_be_credited(page: Page, service: Service) -> None:
    visit(page, service.url)
    names = page.locator("#example option").all_inner_texts()
    assert len(names) > 4
    for number in range(1, len(names)):
        page.select_option("#example", index=number)
        with page.expect_response("**/credit") as answer:
            page.click("#credit")
        [result] = answer.value.json()["results"]
        assert result["status"] == "ok" and result["outcome"], names[number]
        expect(page.locator("#credit")).to_be_enabled()
        assert page.locator("#problem").inner_text() == ""


def test_a_narrow_screen(browser: Browser, service: Service) -> None:
    with browsing(browser, 360, 740) as page:
        visit(page, service.url)
        ask(page, compare="group", reference="6", outcome="", **{"response-b": GROUP})
        expect(page.locator(".rollout")).to_have_count(3)
        page.uncheck("#heat")
        expect(page.locator(".formula.shown").first).to_be_visible()
        page.locator(".prompt summary").first.click()
        expect(page.locator(".prompt h4").first).to_be_visible()
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        in_both_themes(page)


def test_a_view_can_show_a_rollout_and_hear_of_steps(page: Page, service: Service) -> None:
    visit(page, service.url)
    result: dict[str, Any] = {
        "response": "One.\n\nTwo.",
        "outcome": None,
        "critiques": None,
        "steps": [
            {
                "index": i,
                "span": span,
                "token_span": None,
                "wrong": False,
                "penalty": 0.0,
                "votes": {"wrong": 0, "valid": 1, "asked": 1},
                "reward": 0.0,
            }
            for i, span in enumerate(([0, 6], [6, 10]))
        ],
    }
    page.evaluate(
        """async (result) => {
            const { renderRollout } = await import("/ui/rollout.js");
            const box = document.createElement("div");
            document.getElementById("view-inspect").append(box);
            globalThis.heard = [];
            const view = renderRollout(box, { rollout: { title: "T" }, result, labels: { 1: "wrong" }, onStep: (i) => {
                heard.push(i);
                view.setLabel(i, "right");
            } });
        }""",
        result,
    )
    steps = page.locator(".rollout .step")
    expect(steps.nth(1)).to_contain_text("label: wrong")
    steps.nth(0).click()
    steps.nth(1).focus()
    page.keyboard.press("Enter")
    assert page.evaluate("heard") == [0, 1]
    expect(steps.nth(1)).to_contain_text("label: right")
