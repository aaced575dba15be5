"""The Rollouts view in a real Chromium: files of rollouts are opened, filtered, credited and labelled."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st
from playwright.sync_api import Browser, Locator, Page, expect

import capo_wire as wire
from capo_client import CreditClient
from capo_client.adapters.scoring import Sample, Scorer
from capo_client.cli.evaluate import formats
from capo_client.cli.file_job import FileJob
from capo_service.pipeline.canary import load_canaries
from capo_service.pipeline.critics import SymbolicCritic
from capo_wire.aggregate import agreement, mean_reward
from kit_browser import browsing, visit
from kit_scripted import ScriptedEngine
from kit_service import Service, serving, settings


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("service")
    with serving(SymbolicCritic(), settings(folder, live_rollouts=20)) as found:
        yield found


@pytest.fixture
def page(browser: Browser, service: Service) -> Iterator[Page]:
    with browsing(browser) as found:
        visit(found, service.url)
        found.click("#tab-rollouts")
        yield found


RIGHT = {"question": "3 + 4, times 2?", "response": "3 + 4 = 7\n\n7 * 2 = 14\n\n#### 14"}
LUCKY = {"question": "5 + 5, less 1?", "response": "5 + 5 = 11\n\n10 - 1 = 9\n\n#### 9"}
WRONG = {"question": "6 - 2, plus 1?", "response": "6 - 2 = 3\n\n3 + 1 = 4\n\n#### 4"}
SILENT = {"question": "2 * 2, plus 3?", "response": "It is eight.\n\n#### 8"}
ROLLOUTS = [
    {**RIGHT, "id": "right", "reference": "14"},
    {**LUCKY, "id": "lucky", "reference": "9"},
    {**WRONG, "id": "wrong", "reference": "5"},
    {**SILENT, "id": "silent", "reference": "7"},
]


def jsonl(path: Path, records: list[Any]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def opened(page: Page, *paths: Path) -> Locator:
    """The rows after these files were opened."""
    page.set_input_files("#rollout-files", list(paths))
    expect(page.locator("#view-rollouts .files")).to_contain_text(paths[-1].name)
    return page.locator("#view-rollouts tbody tr")


def ids(page: Page) -> list[str]:
    return page.locator("#view-rollouts button.open").all_inner_texts()


def cells(page: Page, column: str) -> list[str]:
    return page.locator(f"#view-rollouts td[data-column={column}]").all_inner_texts()


def accessible(page: Page) -> None:
    found = Axe().run(page)
    assert found.violations_count == 0, found.generate_report()
    width = page.evaluate("document.documentElement.scrollWidth")
    assert page.viewport_size and width <= page.viewport_size["width"]


def credited(service: Service, folder: Path, rollouts: list[dict[str, Any]]) -> tuple[Path, Path]:
    """An input file, and what `capo credit` writes of it."""
    source, target = jsonl(folder / "input.jsonl", rollouts), folder / "results.jsonl"
    with CreditClient(service.url) as client:
        FileJob(source, target).run(client)
    return source, target


def test_results_of_capo_credit_get_their_texts_from_the_input(
    page: Page, service: Service, tmp_path: Path
) -> None:
    source, target = credited(service, tmp_path, ROLLOUTS)
    rows = opened(page, target)
    expect(rows).to_have_count(4)
    page.locator("#view-rollouts button.open").first.click()
    expect(page.locator("#view-rollouts .opened")).to_contain_text("Open the input file")
    page.keyboard.press("Escape")
    expect(opened(page, source)).to_have_count(4)
    assert cells(page, "question") == [rollout["question"] for rollout in ROLLOUTS]
    assert cells(page, "outcome") == ["1", "1", "0", "0"]
    assert cells(page, "wrong") == ["0", "1", "1", "0"]
    page.locator("#view-rollouts button.open").nth(1).click()
    expect(page.locator("#view-rollouts .step")).to_have_count(3)
    expect(page.locator("#view-rollouts .step.wrong")).to_contain_text("5 + 5 = 11")
    expect(page.locator("#view-rollouts .opened")).to_contain_text("Reference answer: 9")


def test_the_file_of_an_adapter_is_opened(page: Page, service: Service, tmp_path: Path) -> None:
    path = tmp_path / "rollouts.jsonl"
    scorer = Scorer(service.url, rollouts_file=str(path), run="run-1")
    turns = [{"role": "user", "content": LUCKY["question"]}]
    samples = [Sample(turns, text=LUCKY["response"], reference="9"), Sample("q", text="a" * 9)]
    scorer.score_now(samples)
    scorer.close()
    expect(opened(page, path)).to_have_count(1)  # without a reference the other was not sent
    assert (cells(page, "question"), cells(page, "wrong")) == ([LUCKY["question"]], ["1"])
    page.locator("#view-rollouts button.open").first.click()
    expect(page.locator("#view-rollouts .step.wrong")).to_contain_text("5 + 5 = 11")


def test_an_input_of_other_rollouts_is_not_joined(
    page: Page, service: Service, tmp_path: Path
) -> None:
    bare = [
        {name: each[name] for name in ("question", "response", "reference")} for each in ROLLOUTS
    ]
    _, target = credited(service, tmp_path, bare)
    other = [{**each, "response": each["response"] + " surely"} for each in bare]
    expect(opened(page, target, jsonl(tmp_path / "other.jsonl", other))).to_have_count(8)
    assert cells(page, "question")[:4] == [""] * 4


def test_filters_search_and_sorting(page: Page, service: Service, tmp_path: Path) -> None:
    rows = opened(page, *credited(service, tmp_path, ROLLOUTS))
    expect(rows).to_have_count(4)
    show = page.locator("#view-rollouts [name=shown]")
    for choice, expected in {
        "lucky": ["lucky"],
        "unexplained": ["silent"],
        "right": ["right", "lucky"],
        "wrong": ["wrong", "silent"],
        "unknown": [],
        "waiting": [],
    }.items():
        show.select_option(choice)
        assert ids(page) == expected
    show.select_option("all")
    page.fill("#view-rollouts [name=text]", "IT IS eight.")
    expect(rows).to_have_count(1)
    page.fill("#view-rollouts [name=text]", "(3 + 4")  # no regular expression
    expect(page.locator("#view-rollouts .none")).to_have_text("No rollout matches the filters.")
    page.fill("#view-rollouts [name=text]", "")
    expect(rows).to_have_count(4)
    page.get_by_role("button", name="reward", exact=True).click()
    assert ids(page)[0] == "right"
    page.get_by_role("button", name="reward", exact=True).click()
    assert ids(page)[-1] == "right"
    expect(page.locator("#view-rollouts th[aria-sort]")).to_have_attribute("aria-sort", "ascending")


def test_agreement_and_reward_hacking_flags_filter(page: Page, tmp_path: Path) -> None:
    def result(name: str, wrong: int, *reasons: str) -> dict[str, Any]:
        step = {
            "index": 0,
            "span": [0, 1],
            "token_span": None,
            "wrong": wrong > 2,
            "penalty": 0.0,
            "votes": {"wrong": wrong, "valid": 4, "asked": 4},
            "reward": 0.0,
        }
        flags = [{"reason": each, "detail": "d", "action": "flag"} for each in reasons]
        return {
            "id": name,
            "status": "ok",
            "outcome": None,
            "steps": [step],
            "suspicion": flags,
            "usage": {"critiques_run": 4},
        }

    records = [result("sure", 0), result("split", 2, "padding"), result("odd", 4, "hidden_text")]
    rows = opened(page, jsonl(tmp_path / "results.jsonl", records))
    assert cells(page, "agreement") == ["100%", "50%", "100%"]
    page.fill("#view-rollouts [name=agreement]", "0.75")
    expect(rows).to_have_count(1)
    page.fill("#view-rollouts [name=agreement]", "")
    page.locator("#view-rollouts [name=flag]").select_option("hidden_text")
    assert ids(page) == ["odd"]
    page.locator("#view-rollouts [name=flag]").select_option("any")
    assert ids(page) == ["split", "odd"]


def test_neighbours_by_keys(page: Page, service: Service, tmp_path: Path) -> None:
    opened(page, *credited(service, tmp_path, ROLLOUTS))
    page.locator("#view-rollouts button.open").first.click()
    heading = page.locator("#view-rollouts .rollout h2")
    expect(heading).to_have_text("right")
    for key, name in (
        ("n", "lucky"),
        ("n", "wrong"),
        ("p", "lucky"),
        ("p", "right"),
        ("p", "right"),
    ):
        page.keyboard.press(key)
        expect(heading).to_have_text(name)
    page.keyboard.press("n")
    expect(heading).to_have_text("lucky")
    page.keyboard.press("Escape")
    expect(page.get_by_role("button", name="Open lucky")).to_be_focused()
    page.locator("#view-rollouts button.open").nth(2).click()
    page.get_by_role("button", name="Open in Inspect").click()
    expect(page.locator("#view-inspect .step")).to_have_count(3)


FOREIGN = {
    "verl": [
        {"input": "user\n1 + 1?", "output": "2", "gts": "2", "score": 1.0, "step": 7, "acc": True}
    ],
    "trl": [
        {
            "step": 7,
            "prompt": [{"role": "user", "content": "1 + 1?"}],
            "completion": [{"role": "assistant", "content": "2"}],
            "format_reward": 1.0,
            "advantage": 0.5,
        }
    ],
    "openrlhf": [{"input": "1 + 1?", "output": "2", "reward": 1.0, "step": 7}],
    "skyrl": [
        {"input_prompt": "1 + 1?", "output_response": "2", "score": [0.0, 0.25, 0.75], "step": 7}
    ],
    "swift": [
        {
            "step": [7, 7],
            "prompt": ["1 + 1?", "1 + 1?"],
            "completion": ["2", "2"],
            "reward": [1.0, 1.0],
        }
    ],
    "chat": [
        {
            "messages": [
                {"role": "user", "content": "1 + 1?"},
                {"role": "assistant", "content": "2"},
            ],
            "reward": 1,
            "step": 7,
        }
    ],
    "nested": [
        {
            "prompt": "1 + 1?",
            "response": "2",
            "reward_model": {"ground_truth": "2"},
            "score": 1,
            "global_step": 7,
        }
    ],
}


@pytest.mark.parametrize("name", FOREIGN)
def test_columns_of_other_programs_are_recognized(page: Page, tmp_path: Path, name: str) -> None:
    rows = opened(page, jsonl(tmp_path / f"{name}.jsonl", FOREIGN[name]))
    expect(rows).to_have_count(2 if name == "swift" else 1)
    assert cells(page, "question")[0].endswith("1 + 1?")
    assert (cells(page, "reward")[0], cells(page, "step")[0]) == ("1", "7")
    page.locator("#view-rollouts button.open").first.click()
    expect(page.locator("#view-rollouts .step-text")).to_have_text("2")


def test_columns_are_chosen_and_remembered(page: Page, tmp_path: Path) -> None:
    record = {
        "frage": "1 + 1?",
        "antwort": "2",
        "punkte": 0.5,
        "schritt": 3,
        "je_token": [0.1, 0.4],
    }
    page.set_input_files("#rollout-files", jsonl(tmp_path / "a.jsonl", [record] * 2))
    files = page.locator("#view-rollouts .files")
    expect(files).to_contain_text("no column with a response was recognized")
    for label, column in {
        "Question": "frage",
        "Response": "antwort",
        "Reward": "punkte",
        "Training step": "schritt",
        "Token rewards": "je_token",
    }.items():
        page.locator("#view-rollouts .mapping label", has_text=label).first.locator(
            "select"
        ).select_option(column)
    page.get_by_role("button", name="Apply").click()
    expect(page.locator("#view-rollouts tbody tr")).to_have_count(2)
    assert cells(page, "reward") == ["0.5", "0.5"] and cells(page, "tokens") == ["2", "2"]
    # Another file with these columns, in the same session.
    expect(opened(page, jsonl(tmp_path / "b.jsonl", [record]))).to_have_count(3)
    page.locator("#view-rollouts button.open").last.click()
    expect(page.locator("#view-rollouts .facts")).to_contain_text("2 token rewards, 0.1 to 0.4")


def test_bad_lines_are_counted_and_shown(page: Page, tmp_path: Path) -> None:
    path = tmp_path / "rough.jsonl"
    good = json.dumps({**RIGHT, "reward": float("nan")})  # as Python writes it
    path.write_text(f'\ufeff{good}\n\nnot json\n[1, 2]\n{{"a": 1}}\n{good}\n{{"question": "cut of')
    expect(opened(page, path)).to_have_count(2)
    told = page.locator("#view-rollouts .files")
    expect(told).to_contain_text("4 lines could not be read")
    told.locator("details.note summary").click()
    for line in (
        "line 3: not JSON",
        "line 4: not a JSON object",
        "line 5: no text",
        "line 7: not JSON",
    ):
        expect(told).to_contain_text(line)
    assert cells(page, "reward") == ["–", "–"]


def test_files_that_are_no_json_say_what_to_do(page: Page, tmp_path: Path) -> None:
    for name, start, advice in (
        ("a.parquet", b"PAR1", "to_json"),
        ("b.jsonl.gz", b"\x1f\x8b\x08", "gunzip"),
        ("c.jsonl", b"", "empty"),
    ):
        (tmp_path / name).write_bytes(start)
        page.set_input_files("#rollout-files", tmp_path / name)
        expect(page.locator("#view-rollouts .files")).to_contain_text(advice)


def test_pretty_printed_answers_and_arrays_are_opened(
    page: Page, service: Service, tmp_path: Path
) -> None:
    (tmp_path / "array.json").write_text(json.dumps(ROLLOUTS, indent=2))
    expect(opened(page, tmp_path / "array.json")).to_have_count(4)
    with CreditClient(service.url) as client:
        results = client.credit(ROLLOUTS, include=["response"]).results
    answer = {"id": "cr_1", "results": [result.model_dump(mode="json") for result in results]}
    (tmp_path / "answer.json").write_text(json.dumps(answer, indent=2))
    expect(opened(page, tmp_path / "answer.json")).to_have_count(4 + 4)


def test_rollouts_are_credited_saved_and_opened_again(page: Page, tmp_path: Path) -> None:
    rollouts = [{**each, "id": f"{each['id']}-{i}"} for i in range(5) for each in ROLLOUTS]
    rollouts += [
        {"question": "no outcome?", "response": "1 + 1 = 3"},
        {"question": "blank", "response": "  "},
    ]
    opened(page, jsonl(tmp_path / "input.jsonl", rollouts))
    page.locator("#view-rollouts td input").nth(0).check()
    expect(page.get_by_role("button", name="Credit 1 selected")).to_be_visible()
    page.locator("#view-rollouts td input").nth(0).uncheck()
    page.get_by_role("button", name="Credit 22 shown").click()
    expect(page.locator(".crediting [role=status]")).to_have_text("21 rollouts credited, 1 failed.")
    assert cells(page, "wrong")[:4] == ["0", "1", "1", "0"]
    page.locator("#view-rollouts [name=shown]").select_option("failed")
    page.locator("#view-rollouts button.open").click()
    expect(page.locator("#view-rollouts .opened")).to_contain_text("Not credited: 422")
    page.keyboard.press("Escape")
    page.locator("#view-rollouts [name=shown]").select_option("all")
    with page.expect_download() as waiting:
        page.get_by_role("button", name="Save results").click()
    saved = tmp_path / "saved.jsonl"
    waiting.value.save_as(saved)
    page.get_by_role("button", name="Close input.jsonl").click()
    expect(opened(page, saved)).to_have_count(21)
    assert cells(page, "wrong")[:4] == ["0", "1", "1", "0"]
    page.locator("#view-rollouts button.open").nth(1).click()
    expect(page.locator("#view-rollouts .step.wrong")).to_contain_text("5 + 5 = 11")


def test_a_service_that_refuses_is_told(browser: Browser, tmp_path: Path) -> None:
    with (
        serving(ScriptedEngine(), settings(tmp_path, api_keys=["secret"])) as closed,
        browsing(browser) as page,
    ):
        visit(page, closed.url)
        page.click("#tab-rollouts")
        opened(page, jsonl(tmp_path / "input.jsonl", ROLLOUTS))
        page.get_by_role("button", name="Credit 4 shown").click()
        expect(page.locator(".crediting [role=status]")).to_contain_text("Enter an API key above")
        expect(page.locator(".crediting [role=status]")).to_contain_text("0 of 4 are credited")


def test_a_rollout_that_is_too_large_does_not_stop_its_batch(
    browser: Browser, tmp_path: Path
) -> None:
    small = settings(tmp_path, max_body_bytes=20_000)
    with serving(ScriptedEngine(), small) as limited, browsing(browser) as page:
        visit(page, limited.url)
        page.click("#tab-rollouts")
        large = {**RIGHT, "id": "large", "reference": "14", "response": "1 + 1 = 2. " * 3000}
        opened(page, jsonl(tmp_path / "input.jsonl", [*ROLLOUTS, large]))
        page.get_by_role("button", name="Credit 5 shown").click()
        expect(page.locator(".crediting [role=status]")).to_have_text(
            "4 rollouts credited, 1 failed."
        )


def label(page: Page, *labels: str) -> None:
    """Label the steps of the opened rollout by the keyboard."""
    for i, key in enumerate(labels):
        page.locator("#view-rollouts .step").nth(i).focus()
        page.keyboard.press(key)


def test_labels_are_read_by_capo_eval_and_as_canaries(
    page: Page, service: Service, tmp_path: Path
) -> None:
    opened(page, *credited(service, tmp_path, ROLLOUTS))
    page.locator("#view-rollouts button.open").first.click()
    page.get_by_label("label steps").check()
    label(page, "r", "r", "r")
    page.keyboard.press("n")
    expect(page.locator("#view-rollouts .rollout h2")).to_have_text("lucky")
    step = page.locator("#view-rollouts .step").first
    for expected in ("wrong", "right", None, "wrong"):
        step.locator(".step-text").click()
        if expected:
            expect(step).to_have_attribute("data-label", expected)
        else:
            expect(step).not_to_have_attribute("data-label", "right")
    page.get_by_role("button", name="Label the rest right").click()
    page.keyboard.press("n")
    expect(page.locator("#view-rollouts .rollout h2")).to_have_text("wrong")
    label(page, "r")  # the judge flags it
    accessible(page)
    page.get_by_role("button", name="Back to the list").click()
    told = page.locator("#view-rollouts .labels [role=status]")
    expect(told).to_contain_text("7 steps of 3 rollouts. 2 rollouts with a label on every step")
    expect(told).to_contain_text(
        "agrees with 6 of 7 (86%): it missed 0 wrong steps and flagged 1 right step"
    )
    with page.expect_download() as waiting:
        page.get_by_role("button", name="Export for capo eval").click()
    path = tmp_path / "labels.jsonl"
    waiting.value.save_as(path)
    name, labelled, left_out = formats.read(path)
    assert (name, left_out) == ("capo", [])
    assert [each.wrong for each in labelled] == [(False,) * 3, (True, False, False)]
    assert labelled[1].steps == ("5 + 5 = 11", "10 - 1 = 9", "#### 9")
    assert [canary.worth for canary in load_canaries(path)] == ["good", "bad"]


def test_labelling_is_on_at_once(page: Page, service: Service, tmp_path: Path) -> None:
    """A view that is drawn again later takes the focus away, and the next key is lost."""
    opened(page, *credited(service, tmp_path, ROLLOUTS))
    page.locator("#view-rollouts button.open").nth(1).click()
    box = page.get_by_label("label steps")
    focused = box.evaluate(
        """async (box) => {
            box.click();
            const step = document.querySelector("#view-rollouts .step");
            step.focus();
            await new Promise((done) => setTimeout(done, 500));
            return step.isConnected && document.activeElement === step;
        }"""
    )
    assert focused


def test_labels_survive_a_reload_and_are_imported(
    browser: Browser, page: Page, service: Service, tmp_path: Path
) -> None:
    files = credited(service, tmp_path, ROLLOUTS)
    opened(page, *files)
    page.locator("#view-rollouts button.open").nth(1).click()
    page.get_by_label("label steps").check()
    label(page, "w", "r")
    page.keyboard.press("Escape")
    with page.expect_download() as waiting:
        page.get_by_role("button", name="Export all").click()
    waiting.value.save_as(tmp_path / "progress.jsonl")
    with pytest.raises(formats.FormatError):  # undecided steps must not count as right
        formats.read(tmp_path / "progress.jsonl")
    page.reload()
    page.wait_for_selector("html[data-ready]")
    page.click("#tab-rollouts")
    expect(page.locator("#view-rollouts .labels")).to_contain_text("2 steps of 1 rollout")
    with browsing(browser) as fresh:
        visit(fresh, service.url)
        fresh.click("#tab-rollouts")
        opened(fresh, tmp_path / "progress.jsonl", *files)
        fresh.locator("#view-rollouts button.open").nth(1).click()
        steps = fresh.locator("#view-rollouts .step")
        expect(steps.nth(0)).to_have_attribute("data-label", "wrong")
        expect(steps.nth(1)).to_have_attribute("data-label", "right")
        assert steps.nth(2).get_attribute("data-label") is None
        # Without the rollouts, the labels are shown with their own texts.
        fresh.keyboard.press("Escape")
        fresh.get_by_role("button", name="Close results.jsonl").click()
        fresh.get_by_role("button", name="Close input.jsonl").click()
        expect(fresh.locator("#view-rollouts tbody tr")).to_have_count(1)
        fresh.locator("#view-rollouts button.open").click()
        expect(steps.nth(0)).to_have_attribute("data-label", "wrong")
        expect(steps.nth(1)).to_contain_text("10 - 1 = 9")


HOSTILE = "<img src=x onerror=\"document.title='x'\"><script>document.title='x'</script>"


def test_fields_of_another_type_spoil_one_line_and_no_other(page: Page, tmp_path: Path) -> None:
    credit = {"id": "0", "status": "ok", "steps": []}
    step = {
        "index": 0,
        "span": [0, 1],
        "wrong": False,
        "votes": {"wrong": 0, "valid": 2},
        "reward": 0,
    }
    good = {"question": "q", "response": "r", "credit": credit}
    spoilt = [
        {**good, "response": None},
        {**good, "question": 7},
        {**good, "credit": {**credit, "suspicion": [{"reason": {}}]}},
        {**good, "credit": {**credit, "steps": [step, {}]}},
        {"text": "t", "result": credit, "title": ["x"]},
    ]
    kept = [
        {**good, "id": "numbers", "run": 3, "step": "4", "outcome": {"toLocaleString": 1}},
        {
            **good,
            "id": "critiques",
            "run": 5,
            "credit": {**credit, "steps": [step], "critiques": 7},
        },
    ]
    rows = opened(page, jsonl(tmp_path / "types.jsonl", [*spoilt, *kept]))
    expect(rows).to_have_count(len(kept))
    told = page.locator("#view-rollouts .files")
    expect(told).to_contain_text(f"{len(spoilt)} lines could not be read")
    assert cells(page, "step") == ["4", "–"] and cells(page, "run") == ["3", "5"]
    page.get_by_role("button", name="Open critiques").click()
    expect(page.locator("#view-rollouts .opened")).to_contain_text("cannot be shown")
    page.get_by_role("button", name="Previous").click()
    expect(page.locator("#view-rollouts .opened h2")).to_have_text("numbers")


def test_hostile_texts_stay_texts(page: Page, tmp_path: Path) -> None:
    title = page.title()
    long = "<b>a</b> " * 22_222
    records: list[dict[str, Any]] = [
        {
            "id": HOSTILE,
            "question": HOSTILE,
            "response": HOSTILE + "\n\n\u202egnp.exe",
            "run": HOSTILE,
            "reference": HOSTILE,
        },
        {
            "id": "\u202elong",
            "question": long,
            "response": long,
            "run": "constructor",
            "__proto__": {"a": 1},
        },
    ]
    path = tmp_path / "a\u202egnp.jsonl"
    expect(opened(page, jsonl(path, records))).to_have_count(2)
    accessible(page)
    for _ in records:
        page.locator("#view-rollouts button.open").first.click()
        expect(page.locator("#view-rollouts .step-text").first).to_be_visible()
        page.get_by_role("button", name="Next").click()
        expect(page.locator("#view-rollouts .step-text").first).to_be_visible()
        page.keyboard.press("Escape")
    assert page.locator("#view-rollouts :is(img, script, b)").count() == 0
    assert page.title() == title and page.evaluate("({}).a === undefined")


def test_many_rollouts_in_pages(page: Page, tmp_path: Path) -> None:
    """20,000 rollouts: some 20 MB in several chunks. Larger files are measured in docs/inspector.md."""
    records = [
        {
            "id": f"r{n}",
            "question": f"Question {n}",
            "response": f"Answer {n}. " * 60,
            "reward": n / 10,
        }
        for n in range(20_000)
    ]
    rows = opened(page, jsonl(tmp_path / "many.jsonl", records))
    expect(page.locator("#view-rollouts .count-of-rows")).to_have_text("20,000 rollouts")
    assert rows.count() == 50
    page.get_by_role("button", name="reward", exact=True).click()
    assert ids(page)[0] == "r19999"
    page.get_by_role("button", name="Next page").click()
    assert ids(page)[0] == "r19949"
    page.fill("#view-rollouts [name=text]", "answer 12345.")
    expect(rows).to_have_count(1)
    page.locator("#view-rollouts button.open").click()
    expect(page.locator("#view-rollouts .rollout h2")).to_have_text("r12345")


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (1280, True), (360, False)])
def test_the_views_are_accessible_and_fit(
    browser: Browser, service: Service, tmp_path: Path, width: int, dark: bool
) -> None:
    files = credited(service, tmp_path, ROLLOUTS)
    with browsing(browser, width, 740) as page:
        visit(page, service.url)
        if dark:
            page.click("#theme")
        page.click("#tab-rollouts")
        accessible(page)
        opened(page, *files, jsonl(tmp_path / "verl.jsonl", FOREIGN["verl"]))
        page.locator("#view-rollouts .mapping summary").last.click()
        accessible(page)
        page.locator("#view-rollouts button.open").nth(1).click()
        page.get_by_label("label steps").check()
        label(page, "w", "r")
        accessible(page)
        page.keyboard.press("Escape")
        accessible(page)


STUB = """async ([text, size]) => {
    const { readRecords, readPlace } = await import("/ui/jsonfile.js");
    const blob = new Blob([text]);
    const file = { size: blob.size, slice: (...at) => blob.slice(...at), text: () => blob.text(), stream: () => {
        const reader = blob.stream().getReader();
        let rest = new Uint8Array(0);
        return { getReader: () => ({ read: async () => {
            if (!rest.length) rest = (await reader.read()).value || rest;
            const value = rest.slice(0, size);
            rest = rest.slice(size);
            return value.length ? { done: false, value } : { done: true };
        } }) };
    } };
    const found = [], again = [], bad = [];
    await readRecords(file, { record: (value, place) => (found.push(value), again.push(place)), bad: (n) => bad.push(n) });
    return [found, await Promise.all(again.map(readPlace)), bad];
}"""
_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-1000, 1000) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
_RECORDS = st.lists(st.dictionaries(st.text(), _VALUES, max_size=3), min_size=1, max_size=4)


@pytest.fixture(scope="module")
def plain_page(browser: Browser, service: Service) -> Iterator[Page]:
    with browsing(browser) as found:
        visit(found, service.url)
        yield found


@examples(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(_RECORDS, st.sampled_from(["lines", "array", "indented", "ascii"]), st.integers(1, 40))
def test_records_are_cut_as_json_cuts_them(
    plain_page: Page, records: list[dict[str, Any]], form: str, size: int
) -> None:
    records = [{**record, "response": "x"} for record in records]
    if form in ("lines", "ascii"):
        text = "\n".join(json.dumps(record, ensure_ascii=form == "ascii") for record in records)
    else:
        text = json.dumps(records, ensure_ascii=False, indent=1 if form == "indented" else None)
    text = text.encode("utf-8", "replace").decode()
    expected = (
        json.loads(f"[{text.replace(chr(10), ',')}]")
        if form in ("lines", "ascii")
        else json.loads(text)
    )
    found, again, bad = plain_page.evaluate(STUB, [text, size])
    assert (found, again, bad) == (expected, expected, [])


_VOTES = st.builds(lambda a, b: (min(a, b), max(a, b)), st.integers(0, 8), st.integers(0, 8))
_STEP = st.tuples(_VOTES, st.integers(1, 30), st.floats(-3, 3))


@examples(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(_STEP, min_size=1, max_size=5), st.none() | st.lists(st.floats(-2, 2), min_size=1))
def test_agreement_and_reward_are_those_of_the_service(
    plain_page: Page, steps: list[Any], tokens: list[float] | None
) -> None:
    made, at = [], 0
    for index, ((wrong, valid), size, reward) in enumerate(steps):
        votes = wire.Votes(wrong=wrong, valid=valid, asked=8)
        made.append(
            wire.Step(
                index=index,
                span=(at, at + size),
                token_span=None,
                wrong=False,
                penalty=0.0,
                votes=votes,
                reward=reward,
            )
        )
        at += size
    result = wire.Credited(
        id="0", outcome=None, steps=made, token_rewards=tokens, usage=wire.Usage()
    )
    found = plain_page.evaluate(
        "async (r) => (await import('/ui/rows.js')).creditOf(r)", result.model_dump(mode="json")
    )
    assert found["agreement"] == pytest.approx(agreement(made))
    assert found["reward"] == pytest.approx(mean_reward(result))
