"""Trajectories over real HTTP: masks, observations, chat turns, and what the judge sees of them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from capo_client import CreditClient
from kit import tokenizer
from kit_scripted import ScriptedEngine, shown_steps
from kit_service import Service, serving, settings

CALL = '<tool_call>\n{"name": "add", "arguments": {"a": 2, "b": 40}}\n</tool_call>'
PARTS = [  # text, whether the policy wrote it
    (f"I add the numbers.\n\n{CALL}", True),
    ("\n[tool] 42 WRONG \\boxed{7}\n", False),
    ("So half of it is WRONG 20.", True),
    ("\n[user] Go on.\n", False),
    ("The answer is \\boxed{42}.", True),
]
TEXT = "".join(text for text, _ in PARTS)
QUESTION = "What is 2 + 40?"


def masked(**fields: Any) -> dict[str, Any]:
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
        "question": QUESTION,
        "response": TEXT,
        "response_token_ids": ids,
        "token_offsets": offsets,
        "response_mask": mask,
        "outcome": 1.0,
        **fields,
    }


def observed(**fields: Any) -> dict[str, Any]:
    """The trajectory without tokens."""
    spans, start = [], 0
    for text, own in PARTS:
        if not own:
            spans.append((start, start + len(text)))
        start += len(text)
    return {
        "question": QUESTION,
        "response": TEXT,
        "observations": spans,
        "outcome": 1.0,
        **fields,
    }


def credit(http: httpx.Client, rollout: dict[str, Any], **options: Any) -> dict[str, Any]:
    response = http.post("/credit", json={"rollouts": [rollout], **options})
    assert response.status_code == 200, response.text
    result: dict[str, Any] = response.json()["results"][0]
    return result


def prompt_of(http: httpx.Client, rollout: dict[str, Any], **options: Any) -> str:
    response = http.post("/prompt", json={"rollouts": [rollout], **options})
    assert response.status_code == 200, response.text
    content: str = response.json()["messages"][1]["content"]
    return content


def test_tokens_of_others_get_nothing_and_each_turn_is_a_step(http: httpx.Client) -> None:
    sent = masked()
    result = credit(http, sent, include=["token_rewards", "critiques"])
    steps, rewards = result["steps"], result["token_rewards"]
    assert [TEXT[a:b] for a, b in (step["span"] for step in steps)] == [
        text for text, own in PARTS if own
    ]
    assert [step["turn"] for step in steps] == [0, 1, 2]
    # What the tool wrote is no step, so the judge's WRONG is about the policy's second turn.
    assert [step["reward"] for step in steps] == [2.0, 1.0, 2.0]
    assert len(rewards) == len(sent["response_mask"])
    for token, own in enumerate(sent["response_mask"]):
        inside = [s for s in steps if s["token_span"][0] <= token < s["token_span"][1]]
        assert rewards[token] == (inside[0]["reward"] if own else 0.0)
        assert len(inside) == own
    assert result["observations"] == [
        {"span": [a, b], "left_out": 0} for a, b in observed()["observations"]
    ]


def test_the_client_makes_the_same_rewards(service: Service, http: httpx.Client) -> None:
    sent = masked()
    expected = credit(http, sent)["token_rewards"]
    with CreditClient(service.url) as client:
        [result] = client.credit([sent])
    assert result.token_rewards == expected


def test_turns_may_be_cut_further_and_never_across(http: httpx.Client) -> None:
    result = credit(http, masked(), segment={"method": "turn_blank_line"})
    assert [step["turn"] for step in result["steps"]] == [0, 0, 1, 2]
    joined = credit(http, masked(), segment={"method": "turn_blank_line", "max_steps": 1})
    assert [step["turn"] for step in joined["steps"]] == [0, 1, 2]
    lines = credit(http, masked(), segment={"method": "newline"})
    assert [step["turn"] for step in lines["steps"]] == [0, 0, 0, 0, 1, 2]


def test_spans_without_tokens_give_the_same_steps(http: httpx.Client) -> None:
    plain, tokens = credit(http, observed()), credit(http, masked())
    same = ("index", "span", "reward", "turn", "wrong")
    assert [{k: step[k] for k in same} for step in plain["steps"]] == [
        {k: step[k] for k in same} for step in tokens["steps"]
    ]
    assert plain["token_rewards"] is None


def test_a_mask_of_ones_is_as_no_mask(http: httpx.Client) -> None:
    sent = masked()
    mask = sent.pop("response_mask")
    without = http.post("/credit", json={"rollouts": [sent]}).json()["results"]
    ones = {**sent, "response_mask": [1] * len(mask)}
    assert http.post("/credit", json={"rollouts": [ones]}).json()["results"] == without
    assert [step["turn"] for step in without[0]["steps"]] == [0, 0]  # cut at the blank line


def test_blank_tokens_of_others_make_no_trajectory(http: httpx.Client) -> None:
    """Chat templates end a turn with a line feed that the policy does not sample."""
    text = "12 + 30 = 42\n\nWRONG 20\n\nso 7\n"
    encoding = tokenizer("gpt2").encode(text)
    assert encoding.tokens[-1] == "\u010a"  # the line feed alone
    sent = {
        "question": "q",
        "response": text,
        "response_token_ids": encoding.ids,
        "token_offsets": encoding.offsets,
        "response_mask": [1] * (len(encoding.ids) - 1) + [0],
        "outcome": 1,
    }
    result = credit(http, sent)
    assert [step["reward"] for step in result["steps"]] == [2.0, 1.0, 2.0]
    assert result["token_rewards"][-2:] == [2.0, 0.0] and result["observations"] is None


def test_the_answer_is_the_policy_s_last_one(http: httpx.Client) -> None:
    def outcome(*parts: tuple[str, bool], reference: str = "42") -> dict[str, Any]:
        spans, start = [], 0
        for text, own in parts:
            spans += [] if own else [(start, start + len(text))]
            start += len(text)
        text = "".join(text for text, _ in parts)
        rollout = {"question": "q", "response": text, "observations": spans}
        found: dict[str, Any] = credit(http, {**rollout, "reference": reference})["outcome"]
        return found

    tool = ("\ntool: \\boxed{42}\n", False)
    assert outcome(("I look it up.", True), tool)["reason"] == "no_answer"
    assert outcome(("It is \\boxed{41}.", True), tool)["value"] == 0.0
    assert outcome(("It is \\boxed{41}.", True), tool, ("No: \\boxed{42}.", True))["value"] == 1.0
    assert outcome(("It is \\boxed{42}.", True), tool, ("No: \\boxed{41}.", True))["value"] == 0.0
    assert outcome(("It is \\boxed{42}.", True), tool, ("I am done.", True))["value"] == 1.0


def test_the_judge_sees_observations_in_their_place(http: httpx.Client) -> None:
    prompt = prompt_of(http, observed())
    assert [text for _, text in shown_steps(prompt)] == [text for text, own in PARTS if own]
    places = [prompt.index(text.strip()) for text, _ in PARTS]
    assert places == sorted(places)
    assert "evidence" in prompt


def test_an_observation_before_the_first_step_is_shown(http: httpx.Client) -> None:
    rollout = {"question": "q", "response": "tool: hello\n\nI see.", "observations": [[0, 13]]}
    prompt = prompt_of(http, {**rollout, "outcome": 1})
    assert prompt.index("tool: hello") < prompt.index("I see.")
    assert len(shown_steps(prompt)) == 1


def test_long_observations_are_cut_and_the_cut_is_reported(http: httpx.Client) -> None:
    output = "begin " + "x" * 50_000 + " end"
    rollout = {
        "question": "q",
        "response": f"I look.{output}Done.",
        "outcome": 1,
        "observations": [[7, 7 + len(output)]],
    }
    for tokens, size in ((None, 3000), (100, 300)):
        options = {} if tokens is None else {"max_observation_tokens": tokens}
        [shown] = credit(http, rollout, **options)["observations"]
        assert shown == {"span": [7, 7 + len(output)], "left_out": len(output) - size}
        prompt = prompt_of(http, rollout, **options)
        assert "begin xxx" in prompt and "xxx end" in prompt
        assert f"[... {len(output) - size:,} characters left out ...]" in prompt


TURNS = [
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 2}'}}
        ],
    },
    {"role": "tool", "tool_call_id": "c1", "content": "42"},
    {"role": "assistant", "reasoning_content": "Hm.", "content": "So half of it is WRONG 20."},
    {"role": "user", "content": [{"type": "text", "text": "Go on."}]},
    {"role": "assistant", "content": "The answer is \\boxed{42}."},
]


def test_chat_turns_are_a_trajectory(http: httpx.Client) -> None:
    result = credit(http, {"question": QUESTION, "response_turns": TURNS, "reference": "42"})
    text = result["response"]
    shown = [text[a:b] for a, b in (step["span"] for step in result["steps"])]
    assert shown == [
        '<tool_call>\n{"name": "add", "arguments": {"a": 2}}\n</tool_call>',
        "<think>\nHm.\n</think>\nSo half of it is WRONG 20.",
        "The answer is \\boxed{42}.",
    ]
    assert [step["wrong"] for step in result["steps"]] == [False, True, False]
    others = [text[a:b] for a, b in (each["span"] for each in result["observations"])]
    assert others == ["\n\ntool (add): 42\n\n", "\n\nuser: Go on.\n\n"]
    assert result["outcome"]["value"] == 1.0


def test_messages_with_calls_results_and_tools_are_shown_in_order(http: httpx.Client) -> None:
    tools = [{"type": "function", "function": {"name": "add", "parameters": {"a": {}}}}]
    messages = [{"role": "system", "content": "Use tools."}, *TURNS[:2], TURNS[3]]
    prompt = prompt_of(
        http, {"messages": messages, "tools": tools, "response": "It is 42.", "outcome": 1}
    )
    expected = [
        json.dumps(tools[0]),
        "system: Use tools.",
        'assistant: <tool_call>\n{"name": "add", "arguments": {"a": 2}}',
        "tool (add): 42",
        "user: Go on.",
        "It is 42.",
    ]
    places = [prompt.index(text) for text in expected]
    assert places == sorted(places)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"response_mask": [1, 0]}, "response_mask has 2 numbers, but "),
        ({"response_mask": "zero"}, "response_mask is 0 for every token"),
        ({"response_mask": [2]}, "response_mask"),
        ({"observations": [[0, 3]]}, "with tokens, send response_mask"),
        ({"steps": [[0, 60], [60, len(TEXT)]]}, "covers text that the policy did not write"),
        ({"response_turns": TURNS}, "response_turns stands in place of response"),
    ],
)
def test_masks_that_cannot_be_used(
    http: httpx.Client, change: dict[str, Any], message: str
) -> None:
    sent = masked()
    if change.get("response_mask") == "zero":
        change = {"response_mask": [0] * len(sent["response_mask"])}
    answer = http.post("/credit", json={"rollouts": [{**sent, **change}]}).json()
    assert message in json.dumps(answer), answer


@pytest.mark.parametrize(
    ("rollout", "message"),
    [
        ({"response_mask": [1]}, "no tokens were sent"),
        ({"observations": [[0, 9999]]}, "observations[0] = [0, 9999] is not a span"),
        ({"observations": [[0, len(TEXT)]]}, "policy's part of the response is empty or blank"),
        (
            {"response": None, "response_turns": TURNS[1:2]},
            "policy's part of the response is empty",
        ),
        ({"response": None, "response_turns": TURNS, "steps": [[0, 3]]}, "leave out response_mask"),
    ],
)
def test_trajectories_without_tokens_that_cannot_be_used(
    http: httpx.Client, rollout: dict[str, Any], message: str
) -> None:
    sent = {"question": "q", "response": TEXT, "outcome": 1, **rollout}
    sent = {name: value for name, value in sent.items() if value is not None}
    answer = http.post("/credit", json={"rollouts": [sent]}).json()
    assert message in json.dumps(answer), answer


def test_steps_of_the_caller_lie_within_turns(http: httpx.Client) -> None:
    first = len(PARTS[0][0])
    starts = [0, 20, first, first + len(PARTS[1][0])]
    steps = [[0, 20], [20, first], [starts[3], starts[3] + len(PARTS[2][0])]]
    last = len(TEXT) - len(PARTS[4][0])
    result = credit(http, masked(steps=[*steps, [last, len(TEXT)]]))
    assert [step["span"] for step in result["steps"]] == [*steps, [last, len(TEXT)]]
    assert [step["turn"] for step in result["steps"]] == [0, 0, 1, 2]


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Service, ScriptedEngine]]:
    """A judge whose context does not hold a whole trajectory; its tokens are characters."""

    def flagging(prompt: str, sampling: Any) -> str:
        wrong = [number for number, text in shown_steps(prompt) if "WRONG" in text]
        return json.dumps({"analysis": "read", "incorrect_steps": wrong})

    engine = ScriptedEngine(flagging, context_length=9_000)
    with serving(engine, settings(tmp_path_factory.mktemp("short"), profile="agent")) as service:
        yield service, engine


def test_where_the_context_is_short_earlier_turns_are_shown_by_their_calls(
    short: tuple[Service, ScriptedEngine],
) -> None:
    service, engine = short
    turns: list[dict[str, Any]] = []
    for n in range(24):
        plan = f"Turn {n}: {'WRONG ' if n in (3, 20) else ''}" + "I think about it. " * 20
        call = {"function": {"name": "look", "arguments": {"page": n}}}
        turns += [
            {"role": "assistant", "content": plan, "tool_calls": [call]},
            {"role": "tool", "name": "look", "content": f"page {n}: " + "text " * 200},
        ]
    rollout = {"question": "Read all.", "response_turns": turns, "outcome": 1}
    with httpx.Client(base_url=service.url, timeout=60) as http:
        result = credit(http, rollout, include=["critiques"])
    assert result["windows"] > 1
    assert [s["index"] for s in result["steps"] if s["wrong"]] == [3, 20]
    assert len(result["steps"]) == 24
    assert all(each["left_out"] == 0 for each in result["observations"])
    [(first, _)] = {tuple(c["judged_steps"]) for c in result["critiques"] if c["window"] == 1}
    judged = {prompt: dict(shown_steps(prompt)) for prompt in engine.prompts}
    [prompt] = [p for p, steps in judged.items() if f"Turn {first}: " in steps[0]]
    # The step before is known by its call and result; what it saw stands before the first step.
    before = first - 1
    call = f'{{"name": "look", "arguments": {{"page": {before}}}}}'
    assert f"Turn {before}: I think about it. I think about ... {call}" in prompt
    assert f"] tool (look): page {before}: text" in prompt[: prompt.index("[/earlier ")]
    steps = prompt[prompt.index("[Work To Judge]") :]
    assert f"tool (look): page {before}: text" in steps
    assert steps.index(f"page {before}: text") < steps.index(f"Turn {first}: ")


def test_a_template_without_observations_says_what_to_change(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = tmp_path_factory.mktemp("old")
    template = folder / "mine.j2"
    template.write_text(
        "{% block system %}s{% endblock %}{% block user %}{{ question }}"
        "{% for step in steps %}{{ step.head }}\n{{ step.text }}{% endfor %}{{ end }}{% endblock %}"
    )
    engine = ScriptedEngine(lambda prompt, sampling: '{"incorrect_steps": []}')
    with (
        serving(engine, settings(folder, template=template)) as service,
        httpx.Client(base_url=service.url, timeout=60) as http,
    ):
        answer = http.post("/credit", json={"rollouts": [observed()]}).json()
        assert "template does not show observations" in json.dumps(answer)
        plain = {"question": "q", "response": "a", "outcome": 1}
        assert credit(http, plain)["status"] == "ok"
