"""Files of trajectories: `capo credit`, `capo eval` and `capo check-alignment` read them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from capo_service.cli import check_alignment
from capo_service.cli.check_alignment import Checker, Line
from capo_service.core.turns import tokens_of_steps
from capo_service.engine.base import CritiqueSampling
from kit import tokenizer
from kit_scripted import ScriptedEngine
from kit_service import serving, settings

CALL = '<tool_call>\n{"name": "add", "arguments": {"a": 2, "b": 40}}\n</tool_call>'
PARTS = [  # text, whether the policy wrote it
    (f"I add.\n\n{CALL}<|endoftext|>", True),
    ("\n[tool] 42\n", False),
    ("The answer is 42.<|endoftext|>", True),
]
TURNS: list[dict[str, Any]] = [
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": "c", "function": {"name": "add", "arguments": '{"a": 2}'}}],
    },
    {"role": "tool", "tool_call_id": "c", "content": "42"},
    {"role": "assistant", "content": "It is 42."},
]
TEMPLATE = (
    "{% for tool in tools or [] %}[tool {{ tool.name }}]\n{% endfor %}"
    "{% for m in messages %}<{{ m.role }}>\n{{ m.content }}"
    "{% for call in m.tool_calls or [] %}<tool_call>\n{{ call.function | tojson }}\n</tool_call>"
    "{% endfor %}{{ eos_token }}\n{% endfor %}{% if add_generation_prompt %}<assistant>\n{% endif %}"
)
# A template that drops what the policy thought before its last turn, as some do.
FORGETS = TEMPLATE.replace(
    "{{ m.content }}", "{{ m.content if loop.last else m.content.split('</think>')[-1] }}"
)


def capo(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "capo_client", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, "COLUMNS": "200"},
    )


def write(path: Path, *records: object) -> Path:
    path.write_text("".join(f"{json.dumps(record)}\n" for record in records))
    return path


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def masked(**fields: Any) -> dict[str, Any]:
    """A trajectory with tokens; each part is tokenized on its own, as an agent loop does."""
    ids: list[int] = []
    mask: list[int] = []
    for text, own in PARTS:
        part = tokenizer("gpt2").encode(text).ids
        ids += part
        mask += [int(own)] * len(part)
    text = "".join(text for text, _ in PARTS)
    return {"response": text, "response_token_ids": ids, "response_mask": mask, **fields}


def policy(folder: Path, template: str | None = TEMPLATE) -> str:
    from transformers import PreTrainedTokenizerFast

    made = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer("gpt2"), eos_token="<|endoftext|>", chat_template=template
    )
    made.save_pretrained(folder)
    return str(folder)


def test_capo_credit_reads_masks_observations_and_chat_turns(tmp_path: Path) -> None:
    text = "".join(text for text, _ in PARTS)
    start = len(PARTS[0][0])
    first = tokenizer("gpt2").encode_batch([text for text, _ in PARTS])
    offsets, at = [], 0
    for (part, _), encoding in zip(PARTS, first, strict=True):
        offsets += [(at + a, at + b) for a, b in encoding.offsets]
        at += len(part)
    common = {"question": "What is 2 + 40?", "outcome": 1, "tools": [{"name": "add"}]}
    between = [start, start + len(PARTS[1][0])]
    observed = {
        "response": text + "z" * 200,
        "observations": [between, [len(text), len(text) + 200]],
    }
    source = write(
        tmp_path / "in.jsonl",
        {**common, **masked(), "token_offsets": offsets},
        {**common, **observed},
        {**common, "response_turns": TURNS},
        {**common, **masked(response_mask=[1, 0]), "token_offsets": offsets},
    )
    out = tmp_path / "out.jsonl"
    prompts: list[str] = []

    def judge(prompt: str, sampling: CritiqueSampling) -> str:
        prompts.append(prompt)
        return '{"incorrect_steps": []}'

    with serving(ScriptedEngine(judge), settings(tmp_path)) as service:
        options = ["--url", service.url, "--out", out]
        done = capo("credit", source, *options, "--max-observation-tokens", 16)
        assert done.returncode == 1, done.stderr
        cut = tmp_path / "cut.jsonl"
        capo("credit", source, "--url", service.url, "--out", cut, "--segment", "turn_blank_line")
    by_mask, by_spans, by_turns, refused = lines(out)
    rewards = masked()["response_mask"]
    assert by_mask["token_rewards"] == [2.0 * own for own in rewards]
    for result in (by_mask, by_spans, by_turns):
        assert [step["turn"] for step in result["steps"]] == [0, 1]
        assert result["observations"][0]["left_out"] == 0
    assert by_spans["observations"][1]["left_out"] == 200 - 16 * 3  # tokens of three bytes
    assert "response" in by_turns and "tool (add): 42" in by_turns["response"]
    assert refused["status"] == "error" and "response_mask has 2 numbers" in str(refused["error"])
    assert "[tool] 42" in prompts[0]
    assert [step["turn"] for step in lines(cut)[0]["steps"]] == [0, 0, 1]


def test_capo_eval_shows_the_judge_what_stands_between_the_steps(tmp_path: Path) -> None:
    steps = ["I look it up.", "It says 7."]
    entries = [
        {"question": "q", "steps": steps, "observations": [said, None], "wrong_steps": wrong}
        for said, wrong in [("8", [1]), ("7", [])]
    ]
    source = write(tmp_path / "labels.jsonl", *entries)

    def judge(prompt: str, sampling: CritiqueSampling) -> str:
        wrong = "1" if "]\n8\n" in prompt else ""
        return f'{{"incorrect_steps": [{wrong}]}}'

    with serving(ScriptedEngine(judge), settings(tmp_path)) as service:
        done = capo("eval", source, "--url", service.url, "--n", 2, "--no-plots", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert (report["table"][0]["step_f1"], report["table"][0]["f1"]) == (1.0, 1.0)
    sent = lines(tmp_path / "labels.jsonl.eval" / "rollouts.jsonl")
    assert [len(rollout["observations"]) for rollout in sent] == [1, 1]


def test_tokens_of_the_policy_are_in_one_step_and_others_in_none(tmp_path: Path) -> None:
    folder = policy(tmp_path / "policy")
    own = masked()
    start = len(PARTS[0][0])
    text = own["response"]
    file = write(
        tmp_path / "rollouts.jsonl",
        own,
        {**own, "response_mask": [bool(each) for each in own["response_mask"]]},
        {"response": text, "observations": [[start, start + len(PARTS[1][0])]]},
        {"question": "2 + 40?", "response_turns": TURNS, "tools": [{"name": "add"}]},
        {"messages": [{"role": "user", "content": "2 + 40?"}, *TURNS]},
    )
    done = capo("check-alignment", file, "--tokenizer", folder)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "5 rollouts" in done.stdout and "10 turns, " in done.stdout
    assert "every other token is in exactly one step" in done.stdout
    checked = list(Checker(folder).lines(file))
    assert [(line.turns, line.steps) for line in checked] == [(2, 2)] * 5
    assert all(line.same_by_offsets for line in checked)
    others = own["response_mask"].count(0)
    assert [line.others for line in checked[:3]] == [others] * 3
    # The head of the tool's turn and of the policy's next one are the template's, as the result is.
    assert checked[3].others == checked[4].others > 3
    blank = list(Checker(folder, "turn_blank_line").lines(file))
    assert [line.steps for line in blank] == [3, 3, 3, 2, 2]


def test_the_ids_of_a_conversation_are_what_its_template_writes(tmp_path: Path) -> None:
    from capo_service.cli.conversations import conversation, masked_ids, rendered

    made = Checker(policy(tmp_path / "policy")).tokenizer
    turns = conversation({"question": "2 + 40?", "response_turns": TURNS})
    assert turns is not None
    text, begin, spans = rendered(made, turns, None)
    assert text[:begin] == "<user>\n2 + 40?<|endoftext|>\n<assistant>\n"
    call = '<tool_call>\n{"name": "add", "arguments": {"a": 2}}\n</tool_call><|endoftext|>'
    assert [text[a:b] for a, b in spans] == [call, "It is 42.<|endoftext|>"]
    ids, mask = masked_ids(made, text, begin, spans)
    own = [token for token, mine in zip(ids, mask, strict=True) if mine]
    assert made.decode(own) == call + "It is 42.<|endoftext|>"
    assert made.decode(ids) == text[begin:]


@pytest.mark.parametrize(
    ("rollout", "template", "says"),
    [
        (masked(response_mask=[1]), TEMPLATE, "response_mask has 1 numbers for"),
        (
            masked(response_mask=[0] * len(masked()["response_mask"])),
            TEMPLATE,
            "response_mask is 0 for every id",
        ),
        ({"response": "a b", "observations": [[1, 9]]}, TEMPLATE, "is not a span of the response"),
        ({"messages": TURNS}, None, "the tokenizer has no chat template"),
        (
            {
                "question": "q",
                "response_turns": [{"role": "assistant", "content": "a</think>b"}, *TURNS],
            },
            FORGETS,
            "the chat template changes the conversation before the end of turn",
        ),
        (
            {"messages": TURNS},
            "{{ raise_exception('no tools here') }}",
            "the chat template refuses the conversation: no tools here",
        ),
    ],
)
def test_a_trajectory_that_cannot_be_aligned_says_why(
    rollout: dict[str, Any], template: str | None, says: str, tmp_path: Path
) -> None:
    checker = Checker(policy(tmp_path / "policy", template))
    [line] = checker.lines(write(tmp_path / "rollouts.jsonl", rollout))
    assert line.verdict == "wrong" and says in (line.detail or "")


@pytest.mark.parametrize(
    ("rollout", "says"),
    [
        (masked(response_mask=[2]), "response_mask is not a list of 0 and 1"),
        ({"response": "a", "response_mask": [1]}, "for the ids of response_token_ids"),
        ({"messages": [{"role": "user", "content": "q"}]}, "and no chat turns of role assistant"),
        ({"messages": ["q"]}, "its chat turns cannot be read: a chat turn is not an object"),
    ],
)
def test_lines_that_are_no_trajectories_are_named(
    rollout: dict[str, Any], says: str, tmp_path: Path
) -> None:
    checker = Checker(policy(tmp_path / "policy"))
    with pytest.raises(ValueError, match="line 1") as refused:
        list(checker.lines(write(tmp_path / "rollouts.jsonl", rollout)))
    assert says in str(refused.value)


def test_a_token_in_no_step_or_in_two_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The service's own cutting is checked: here it is made to err."""
    checker = Checker(policy(tmp_path / "policy"))
    file = write(tmp_path / "rollouts.jsonl", masked())

    def found(shift: int) -> Line:
        def wrong(*arguments: Any) -> list[tuple[int, int]]:
            spans = tokens_of_steps(*arguments)
            return [(spans[0][0], spans[0][1] + shift), *spans[1:]]

        monkeypatch.setattr(check_alignment, "tokens_of_steps", wrong)
        [line] = checker.lines(file)
        return line

    end = masked()["response_mask"].index(0)
    assert found(1).detail == f"token {end} is not the policy's and in 1 steps"
    assert found(-1).detail == f"token {end - 1} is the policy's and in 0 steps"
    assert found(0).verdict != "wrong"
