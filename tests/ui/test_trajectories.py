"""Trajectories in a real Chromium: turns, tool calls, observations, tokens that are not the policy's."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st
from playwright.sync_api import Browser, Locator, Page, expect

from capo_client import CreditClient
from capo_client.adapters.scoring import Sample, Scorer
from capo_client.cli.evaluate import formats
from capo_client.cli.file_job import FileJob
from capo_service.core.alignment import from_offsets
from capo_service.core.turns import turns_by_mask
from capo_service.engine.base import CritiqueSampling
from capo_service.pipeline.canary import load_canaries
from capo_wire.chat import ChatTurn, trajectory_text
from capo_wire.labelled_steps import joined
from kit import tokenizer
from kit_browser import browsing, visit
from kit_scripted import ScriptedEngine
from kit_service import Service, serving, settings

QUESTION = "What is 2 + 40?"
CALL = '<tool_call>\n{"name": "add", "arguments": {"a": 2, "b": "forty"}}\n</tool_call>'
HOSTILE = '<img src=x onerror="document.title=1"><b>bold</b> $x^2$ <tool_call>'
LONG = "\n" + HOSTILE + " 42\n" + "filler line\n" * 400
PARTS = [  # text, whether the policy wrote it
    (f"I add them.\n\n{CALL}", True),
    (LONG, False),
    ("So half of it is $20$.", True),
    ("\n[user] Go on.\n", False),
    ("The answer is 42.", True),
    ("\n", False),
]
TEXT = "".join(text for text, _ in PARTS)
TOOLS = [{"type": "function", "function": {"name": "add", "parameters": {}}}]
TURNS: list[dict[str, Any]] = [
    {
        "role": "assistant",
        "content": "I add them.\n\nBoth of them.",
        "tool_calls": [
            {"id": "c1", "function": {"name": "add", "arguments": {"a": 2, "b": "forty"}}}
        ],
    },
    {"role": "tool", "tool_call_id": "c1", "content": HOSTILE},
    {"role": "assistant", "content": "The answer is 42."},
]


def masked(**more: Any) -> dict[str, Any]:
    """The trajectory with tokens; each part is tokenized on its own, as an agent loop does."""
    ids: list[int] = []
    offsets: list[tuple[int, int]] = []
    mask: list[int] = []
    start = 0
    for text, own in PARTS:
        encoding = tokenizer("gpt2").encode(text)
        ids += encoding.ids
        offsets += [(start + a, start + b) for a, b in encoding.offsets]
        mask += [int(own)] * len(encoding.ids)
        start += len(text)
    return {
        "id": "masked",
        "question": QUESTION,
        "response": TEXT,
        "response_token_ids": ids,
        "token_offsets": offsets,
        "response_mask": mask,
        "outcome": 1.0,
        "tools": TOOLS,
        **more,
    }


def observed(**more: Any) -> dict[str, Any]:
    """The trajectory without tokens."""
    spans, start = [], 0
    for text, own in PARTS:
        if not own:
            spans.append((start, start + len(text)))
        start += len(text)
    return {
        "id": "observed",
        "question": QUESTION,
        "response": TEXT,
        "observations": spans,
        "outcome": 1.0,
        **more,
    }


def turned(**more: Any) -> dict[str, Any]:
    """The trajectory as chat turns."""
    return {
        "id": "turned",
        "question": QUESTION,
        "response_turns": TURNS,
        "outcome": 1.0,
        "tools": TOOLS,
        **more,
    }


def flag_second(prompt: str, sampling: CritiqueSampling) -> str:
    return '{"analysis": "See step 1.", "incorrect_steps": [1]}'


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    chosen = settings(
        tmp_path_factory.mktemp("service"), critique_style="brief", max_observation_tokens=64
    )
    with serving(ScriptedEngine(flag_second), chosen) as found:
        yield found


@pytest.fixture
def page(browser: Browser, service: Service) -> Iterator[Page]:
    with browsing(browser) as found:
        visit(found, service.url)
        yield found
        assert found.title() == "CAPO inspector"  # no text of a rollout has run


def jsonl(path: Path, *records: Any) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def opened(page: Page, *paths: Path) -> Locator:
    """The rows of these files."""
    page.click("#tab-rollouts")
    page.set_input_files("#rollout-files", list(paths))
    expect(page.locator("#view-rollouts .files")).to_contain_text(paths[-1].name)
    return page.locator("#view-rollouts tbody tr")


def open_row(page: Page, name: str) -> Locator:
    """The view of the rollout with this id."""
    page.get_by_role("button", name=f"Open {name}", exact=True).click()
    view = page.locator("#view-rollouts .opened")
    expect(view.locator(".steps > li").first).to_be_visible()
    return view


def order(view: Locator) -> list[str]:
    """What stands in the list of steps, in its order."""
    expect(view.locator(".steps > li").first).to_be_visible()
    return view.locator(".steps > li").evaluate_all(
        """all => all.map(e => e.classList.contains("step") ? `step ${e.dataset.step}`
           : e.classList.contains("turn") ? e.textContent.toLowerCase() : "observation")"""
    )


def accessible(page: Page) -> None:
    for _ in range(2):  # both themes
        found = Axe().run(page)
        assert found.violations_count == 0, found.generate_report()
        page.click("#theme")
    width = page.evaluate("document.documentElement.scrollWidth")
    assert page.viewport_size and width <= page.viewport_size["width"]


IN_TURNS = [
    "turn 0",
    "step 0",
    "observation",
    "turn 1",
    "step 1",
    "observation",
    "turn 2",
    "step 2",
]


def job(service: Service, folder: Path, *rollouts: dict[str, Any]) -> tuple[Path, Path]:
    """An input file, and what `capo credit` writes of it."""
    source, target = jsonl(folder / "input.jsonl", *rollouts), folder / "results.jsonl"
    with CreditClient(service.url) as client:
        FileJob(source, target).run(client)
    return source, target


def test_results_of_capo_credit_are_shown_in_turns(
    page: Page, service: Service, tmp_path: Path
) -> None:
    source, target = job(service, tmp_path, masked(), observed(), turned())
    expect(opened(page, source, target)).to_have_count(3)
    view = open_row(page, "masked")
    assert order(view) == [*IN_TURNS, "observation"]  # the last is white space
    expect(view.locator(".facts")).to_contain_text("3 turns, 2 observations")
    expect(view.locator(".step.wrong")).to_contain_text("half of it")
    expect(view.locator(".observation").last).to_contain_text("White space, not the policy's")
    page.keyboard.press("Escape")
    assert order(open_row(page, "observed")) == IN_TURNS
    page.keyboard.press("Escape")
    view = open_row(page, "turned")
    assert order(view) == IN_TURNS[:5]
    expect(view.locator(".observation")).to_contain_text("tool (add): <img src=x")
    expect(view.locator(".question").first).to_contain_text(QUESTION)
    expect(view.locator(".question").last).to_contain_text("Tools of the policy (1)")


def test_a_tool_call_is_shown_by_its_name_and_arguments(
    page: Page, service: Service, tmp_path: Path
) -> None:
    opened(page, *job(service, tmp_path, masked()))
    view = open_row(page, "masked")
    call = view.locator(".step .call")
    expect(call).to_have_count(1)
    expect(call.locator(".call-name")).to_have_text("call add")
    expect(call.locator(".argument-name")).to_have_text(["a", "b"])
    expect(call.locator(".argument-value")).to_have_text(["2", "forty"])
    call.hover()
    expect(view.locator(".tip")).to_contain_text(re.compile(r"tokens \d+ to \d+ · reward \+2.00"))
    view.locator(".step").first.focus()
    page.keyboard.press("m")
    expect(call).to_have_count(0)
    expect(view.locator(".step-text").first).to_contain_text('{"name": "add"')
    page.keyboard.press("m")
    expect(call).to_have_count(1)


def test_a_long_observation_is_folded_and_says_what_the_judge_was_not_shown(
    page: Page, service: Service, tmp_path: Path
) -> None:
    source, target = job(service, tmp_path, masked())
    result = json.loads(target.read_text())
    left_out = result["observations"][0]["left_out"]
    assert left_out > 1000
    opened(page, source, target)
    view = open_row(page, "masked")
    details = view.locator(".observation details")
    assert [each.get_attribute("open") for each in details.all()] == [None, "", ""]
    expect(details.first.locator("summary")).to_contain_text(
        f"Observation, {len(LONG):,} characters"
    )
    expect(details.first.locator("summary")).to_contain_text(
        f"{left_out:,} characters not shown to the judge"
    )
    assert "not shown" not in details.nth(1).inner_text()
    details.first.locator("summary").click()
    body = details.first.locator(".observed-text")
    expect(body).to_contain_text(HOSTILE)
    assert body.locator("img, b, .formula, .call").count() == 0
    accessible(page)


def test_every_token_is_there_and_those_of_others_are_marked(
    page: Page, service: Service, tmp_path: Path
) -> None:
    sent = masked()
    opened(page, *job(service, tmp_path, sent))
    view = open_row(page, "masked")
    view.locator(".observation summary").first.click()
    view.locator(".step").first.focus()
    page.keyboard.press("m")  # the raw text, in which no token is hidden
    expect(view.locator(".call")).to_have_count(0)
    found = view.locator(".token").evaluate_all(
        """all => all.map(e => [Number(e.dataset.token), e.classList.contains("other"), e.title,
           e.dataset.raw ?? e.textContent])"""
    )
    assert [number for number, *_ in found] == list(range(len(sent["response_mask"])))
    assert [int(not other) for _, other, *_ in found] == sent["response_mask"]
    assert "".join(text for *_, text in found) == TEXT
    others = {title.split(" · ", 2)[2] for _, other, title, _ in found if other}
    assert others == {"not the policy's · reward 0"}
    view.locator(".token.other").nth(1).hover()
    expect(view.locator(".tip")).to_contain_text("not the policy's · reward 0")
    assert view.locator(".observation .step, .step .observation").count() == 0
    page.keyboard.press("m")


def test_lengths_of_tokens_are_as_good_as_offsets(
    page: Page, service: Service, tmp_path: Path
) -> None:
    sent = masked(id="lengths")
    sent["token_lengths"] = [end - start for start, end in sent.pop("token_offsets")]
    opened(page, *job(service, tmp_path, sent))
    view = open_row(page, "lengths")
    texts = view.locator(".step").nth(2).locator(".token").all_inner_texts()
    assert "".join(texts) == "The answer is 42." and len(texts) > 3


def test_the_file_of_an_adapter_opens_in_turns(
    page: Page, service: Service, tmp_path: Path
) -> None:
    path = tmp_path / "rollouts.jsonl"
    scorer = Scorer(service.url, rollouts_file=str(path), run="run-1")
    asked = [{"role": "user", "content": QUESTION}]
    scorer.score_now([Sample(asked, turns=TURNS, tools=TOOLS, outcome=1.0)])
    scorer.close()
    expect(opened(page, path)).to_have_count(1)
    page.locator("#view-rollouts button.open").first.click()
    assert order(page.locator("#view-rollouts .opened")) == IN_TURNS[:5]
    page.keyboard.press("Escape")
    jsonl(path, {**masked(), "credit": None, "error": "gone"}, {**turned(), "credit": None})
    opened(page, path)
    assert order(open_row(page, "masked")) == IN_TURNS  # without credit too


def test_rollouts_without_credit_are_credited_from_the_page(
    page: Page, service: Service, tmp_path: Path
) -> None:
    talk = {"id": "talk", "messages": [{"role": "user", "content": QUESTION}, *TURNS]}
    path = jsonl(tmp_path / "sent.jsonl", masked(), observed(), turned(), talk)
    expect(opened(page, path)).to_have_count(4)
    for name, expected in {"masked": IN_TURNS, "observed": IN_TURNS, "talk": IN_TURNS[:5]}.items():
        view = open_row(page, name)
        assert order(view) == expected
        expect(view.locator(".facts")).to_contain_text("(one a turn)")
        page.keyboard.press("Escape")
    page.click("#view-rollouts .crediting button.main")
    expect(page.locator("#view-rollouts .crediting")).to_contain_text("4 rollouts credited")
    for name, expected in {
        "masked": [*IN_TURNS, "observation"],
        "observed": IN_TURNS,
        "turned": IN_TURNS[:5],
        "talk": IN_TURNS[:5],
    }.items():
        assert order(open_row(page, name)) == expected
        page.keyboard.press("Escape")
    with page.expect_download() as saving:
        page.get_by_role("button", name="Save results (JSONL)").click()
    saved = tmp_path / "saved.jsonl"
    saving.value.save_as(saved)
    page.reload()
    page.wait_for_selector("html[data-ready]")
    expect(opened(page, saved)).to_have_count(4)
    view = open_row(page, "masked")
    assert order(view) == [*IN_TURNS, "observation"]
    assert view.locator(".token.other").count() > 2


def test_chat_turns_are_pasted_and_their_prompt_is_shown(page: Page, service: Service) -> None:
    page.select_option("#written", "turns")
    page.fill("#response-a", json.dumps([{"role": "user", "content": QUESTION}, *TURNS]))
    with page.expect_request("**/credit") as sent:
        page.click("#credit")
    body = sent.value.post_data_json
    [rollout] = body["rollouts"]
    assert rollout["messages"] == [{"role": "user", "content": QUESTION}]
    assert [turn["role"] for turn in rollout["response_turns"]] == [
        "assistant",
        "tool",
        "assistant",
    ]
    assert "response" not in rollout and "token_offsets" not in rollout
    assert body["segment"] == {} and "max_observation_tokens" not in body
    view = page.locator("#rollouts")
    expect(view.locator(".step")).to_have_count(2)
    assert order(view) == IN_TURNS[:5]
    expect(view.locator(".call-name")).to_have_text("call add")
    page.locator(".prompt > summary").click()
    expect(page.locator(".prompt")).to_contain_text("[observation ")
    accessible(page)
    # A vote that is changed keeps observations as they are, and another segmenter is sent.
    details = view.locator(".observation details")
    assert details.get_attribute("open") == ""
    details.locator("summary").click()
    page.fill("#w_process", "3")
    assert details.get_attribute("open") is None
    page.select_option("#segment", "turn_blank_line")
    page.fill("#observation", "64")
    page.fill("#question", "Another question")
    with page.expect_request("**/credit") as sent:
        page.click("#credit")
    body = sent.value.post_data_json
    assert body["segment"] == {"method": "turn_blank_line"}
    assert body["max_observation_tokens"] == 64
    assert body["rollouts"][0]["question"] == "Another question"
    assert len(body["rollouts"][0]["response_turns"]) == 4
    expect(view.locator(".step")).to_have_count(3)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("Ten.", "The chat turns are not JSON"),
        ('{"role": "assistant"}', "The rollout is no list of chat turns"),
        (json.dumps(TURNS), "The question is missing"),
    ],
)
def test_turns_that_cannot_be_sent_say_why(page: Page, text: str, says: str) -> None:
    page.select_option("#written", "turns")
    page.fill("#response-a", text)
    page.click("#credit")
    expect(page.locator("#problem")).to_contain_text(says)


def test_a_trajectory_of_a_file_is_opened_in_inspect(
    page: Page, service: Service, tmp_path: Path
) -> None:
    opened(page, *job(service, tmp_path, masked()))
    open_row(page, "masked")
    page.get_by_role("button", name="Open in Inspect").click()
    view = page.locator("#rollouts")
    assert order(view) == [*IN_TURNS, "observation"]
    page.locator(".prompt > summary").click()
    expect(page.locator(".prompt")).to_contain_text("[observation ")
    assert page.input_value("#written") == "turns"  # to be credited again as a trajectory
    turns = json.loads(page.input_value("#response-a"))
    assert [turn["role"] for turn in turns] == ["assistant", "tool"] * 2 + ["assistant"]


def test_labels_of_a_trajectory_go_to_capo_eval_and_back(
    page: Page, service: Service, tmp_path: Path
) -> None:
    opened(page, *job(service, tmp_path, masked(), observed(response=TEXT.replace("42.", "43."))))
    for name in ("masked", "observed"):
        view = open_row(page, name)
        if name == "masked":
            page.get_by_role("checkbox", name="label steps").check()
        for step, key in enumerate("rwr" if name == "masked" else "rrr"):
            view.locator(".step").nth(step).focus()
            page.keyboard.press(key)
        assert view.locator(".observation .label").count() == 0
        view.locator(".step").first.focus()
        page.keyboard.press("Escape")
    with page.expect_download() as saving:
        page.get_by_role("button", name="Export for capo eval").click()
    saved = tmp_path / "labels.jsonl"
    saving.value.save_as(saved)
    _, [example, clean], left_out = formats.read(saved)
    assert example.wrong == (False, True, False) and not left_out
    assert example.observations == (LONG.strip(), "[user] Go on.", None)
    assert example.steps == tuple(text for text, own in PARTS if own)
    assert len(load_canaries(saved)) == 2 and not any(clean.wrong)
    page.reload()
    page.wait_for_selector("html[data-ready]")
    page.evaluate("sessionStorage.clear()")
    page.evaluate("import('/ui/labels.js').then(each => each.clearLabels())")
    expect(opened(page, saved)).to_have_count(2)
    view = open_row(page, "line-1")
    assert order(view) == IN_TURNS
    page.get_by_role("checkbox", name="label steps").check()
    labels = view.locator(".step .label").all_inner_texts()
    assert labels == ["label: right", "label: wrong", "label: right"]
    page.keyboard.press("Escape")
    bad = {**json.loads(saved.read_text().splitlines()[0]), "observations": ["one"]}
    opened(page, jsonl(tmp_path / "bad.jsonl", bad))
    expect(page.locator("#view-rollouts .files")).to_contain_text("1 line could not be read")


def test_what_is_copied_over_an_observation_is_the_raw_text(
    page: Page, service: Service, tmp_path: Path
) -> None:
    opened(page, *job(service, tmp_path, masked()))
    open_row(page, "masked")
    page.evaluate(
        """() => { const range = document.createRange();
        range.selectNodeContents(document.querySelector("#view-rollouts .steps"));
        getSelection().removeAllRanges(); getSelection().addRange(range);
        document.execCommand("copy"); }"""
    )
    assert page.evaluate("navigator.clipboard.readText()") == TEXT


def test_a_narrow_screen(browser: Browser, service: Service, tmp_path: Path) -> None:
    with browsing(browser, 360, 740) as page:
        visit(page, service.url)
        opened(page, *job(service, tmp_path, masked()))
        view = open_row(page, "masked")
        view.locator(".observation summary").first.click()
        accessible(page)
        page.click("#tab-inspect")
        page.select_option("#written", "turns")
        accessible(page)


@pytest.fixture(scope="module")
def plain_page(browser: Browser, service: Service) -> Iterator[Page]:
    with browsing(browser) as found:
        visit(found, service.url)
        yield found


texts = st.text(max_size=4)
keys = st.text(alphabet='ab"\n é', max_size=4)  # a browser puts keys that are numbers first
arguments = st.dictionaries(keys, st.integers(-9, 9) | texts | st.none() | st.booleans())
calls = st.builds(
    lambda name, given, number: {
        "function": {"name": name, "arguments": given},
        **({"id": number} if number else {}),
    },
    st.text(min_size=1, max_size=3),
    arguments | st.just("{}"),
    st.sampled_from(["", "c1", "c2"]),
)
turns = st.builds(
    lambda role, content, made, thought, answered: {
        "role": role,
        "content": content,
        "reasoning_content": thought,
        "tool_call_id": answered,
        **({"tool_calls": made} if made and role == "assistant" else {}),
    },
    st.sampled_from(["assistant", "tool", "user"]),
    st.none() | texts,
    st.lists(calls, max_size=2),
    st.none() | texts,
    st.none() | st.just("c1"),
)


@examples(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(turns, min_size=1, max_size=5))
def test_the_page_writes_turns_as_the_service_does(
    plain_page: Page, given: list[dict[str, Any]]
) -> None:
    found = plain_page.evaluate(
        """async (turns) => { const { trajectoryText, wireTurn } = await import("/ui/trajectory.js");
        const {text, observations} = trajectoryText(turns.map(wireTurn)); return [text, observations]; }""",
        given,
    )
    text, spans = trajectory_text([ChatTurn.model_validate(turn) for turn in given])
    assert found == [text, [list(span) for span in spans]]


@examples(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.lists(st.tuples(st.text(alphabet="a 🥐\n", max_size=3), st.booleans()), min_size=1),
    st.data(),
)
def test_the_page_cuts_turns_as_the_service_does(
    plain_page: Page, tokens: list[tuple[str, bool]], data: st.DataObject
) -> None:
    text, offsets = "", []
    for token, _ in tokens:
        start = len(text)
        # Sometimes a token begins inside the one before, as where a character is split.
        shared = bool(offsets) and bool(token) and data.draw(st.booleans())
        text += token
        offsets.append((max(start - 1, offsets[-1][0]) if shared else start, len(text)))
    mask = [int(own) for _, own in tokens]
    aligned = from_offsets(offsets, text)
    expected = [[list(turn.span), list(turn.tokens or ())] for turn in turns_by_mask(aligned, mask)]
    found = plain_page.evaluate(
        """async ([size, offsets, mask]) => { const { placed, turnsByMask } = await import("/ui/trajectory.js");
        return turnsByMask(size, placed(offsets), mask).map((turn) => [turn.span, turn.token_span]); }""",
        [len(text), offsets, mask],
    )
    assert found == expected


@examples(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.lists(
        st.tuples(st.text(min_size=1, max_size=4), st.none() | st.text(max_size=4)), min_size=1
    )
)
def test_the_page_joins_labelled_steps_as_capo_eval_does(
    plain_page: Page, parts: list[tuple[str, str | None]]
) -> None:
    steps, observations = zip(*parts, strict=True)
    text, spans, observed_ = joined(steps, observations)
    found = plain_page.evaluate(
        """async ([steps, observations]) => { const found = (await import("/ui/trajectory.js")).joined(steps, observations);
        return [found.text, found.steps.map((each) => each.span), found.observations.map((each) => each.span)]; }""",
        [list(steps), list(observations)],
    )
    assert found == [text, [list(span) for span in spans], [list(span) for span in observed_]]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (CALL, {"name": "add", "arguments": [["a", "2"], ["b", "forty"]]}),
        ('<tool_call>{"name": "go"}</tool_call>', {"name": "go", "arguments": []}),
        (
            "<tool_call>\n<function=run>\n<parameter=code>\nprint(1)\n\nx\n</parameter>\n</function>\n"
            "</tool_call>",
            {"name": "run", "arguments": [["code", "print(1)\n\nx"]]},
        ),
        ('<tool_call>{"name": "go", "arguments": [1]}</tool_call>', None),
        ('<tool_call>{"name": 3}</tool_call>', None),
        ("<tool_call>{torn</tool_call>", None),
        ('<tool_call>{"name": "go"}', None),
        ("<tool_call>" * 300_000, None),
        ("<tool_call><function=a>" + "<parameter=x>" * 9000 + "</function></tool_call>", None),
    ],
)
def test_calls_are_found(plain_page: Page, text: str, found: dict[str, Any] | None) -> None:
    pieces = plain_page.evaluate(
        "async (text) => (await import('/ui/calls.js')).callPieces(text)", f"a {text} b"
    )
    assert "".join(piece["raw"] for piece in pieces) == f"a {text} b"
    assert [piece["call"] for piece in pieces if "call" in piece] == ([found] if found else [])
