"""`capo prompt`: exactly what the service would ask, without a judge."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import resources
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from capo_service.cli.dump_prompts import prompt
from capo_service.engine.local_models import local_model
from capo_service.engine.prompt_encoder import PromptEncoder
from capo_service.settings import Settings
from capo_service.settings.fields import TESTBED_JUDGES
from kit import tokenizer

app = typer.Typer()
app.command()(prompt)


def ask(tmp_path: Path, *lines: object, options: tuple[str, ...] = ()) -> tuple[int, str, list]:
    sent, got = tmp_path / "rollouts.jsonl", tmp_path / "prompts.jsonl"
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    sent.write_text("\n".join(texts))
    result = CliRunner().invoke(app, [str(sent), "--out", str(got), *options])
    found = [json.loads(line) for line in got.read_text().splitlines()] if got.exists() else []
    return result.exit_code, result.output, found


def test_messages_and_ids_are_those_of_the_service(tmp_path: Path) -> None:
    from transformers import PreTrainedTokenizerFast

    model = tmp_path / "model"
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer("qwen"), eos_token="<|endoftext|>",
        chat_template="{% for m in messages %}<|im_start|>{{ m.content }}<|im_end|>{% endfor %}",
    ).save_pretrained(model)  # fmt: skip
    rollout = {"id": "r", "question": "What is 2 + 2?", "response": "2 + 2 = 4\n\nso <|im_end|> 4",
               "token_offsets": [[0, 1]], "mine": "ignored"}  # fmt: skip
    code, output, [prompt] = ask(tmp_path, rollout, options=("--model", str(model)))
    assert code == 0 and "1 prompts" in output
    assert prompt["id"] == "r" and prompt["steps"] == [[0, 11], [11, 26]]
    assert [m["role"] for m in prompt["messages"]] == ["system", "user"]
    assert "What is 2 + 2?" in prompt["messages"][1]["content"]
    control = PromptEncoder(str(model)).control_ids
    # Two turns open and end; the rollout's own marker is no control token.
    assert sum(token in control for token in prompt["prompt_token_ids"]) == 4
    assert prompt["opening"] == '{"analysis": "'
    text = tokenizer("qwen").decode(prompt["prompt_token_ids"], skip_special_tokens=False)
    assert text.endswith(prompt["opening"])
    *_, [other] = ask(tmp_path, rollout, options=("--model", str(model), "--set", "prefill=false"))
    assert other["opening"] == "" and prompt["prompt_token_ids"] != other["prompt_token_ids"]


def test_without_a_model_there_is_text_only_and_every_example_works(tmp_path: Path) -> None:
    lines = (resources.files("capo_wire") / "examples" / "rollouts.jsonl").read_text().splitlines()
    code, _, prompts = ask(tmp_path, *lines)
    assert code == 0 and len(prompts) == 8
    assert all(prompt["prompt_token_ids"] is None for prompt in prompts)
    assert all(prompt["opening"] == "" for prompt in prompts)
    # The built-in template, and not that of the default judge `demo`.
    assert all("You are a careful maths teacher" in p["messages"][0]["content"] for p in prompts)


@pytest.mark.parametrize("tokens", [{"token_offsets": [[0, 99]]}, {"token_lengths": [99]}])
def test_tokens_do_not_matter(tmp_path: Path, tokens: dict[str, object]) -> None:
    code, _, prompts = ask(tmp_path, {"question": "q", "response": "r", **tokens})
    assert code == 0 and len(prompts) == 1


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2: "),
        ("[]", "line 2: not a JSON object"),
        ({"question": "q"}, "line 2: "),
        ({"question": "q", "response": "  "}, "line 2: response is empty or blank"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: object, message: str) -> None:
    code, output, _ = ask(tmp_path, {"question": "q", "response": "r"}, line)
    assert code == 2 and message in " ".join(output.split())


def test_the_testbeds_judges_have_their_own_style_and_say_how_they_are_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert Settings(model="testbed").critique_style == "verdict"
    assert Settings(model="testbed-f60").critique_style == "verdict"
    assert Settings(model="testbed", critique_style="brief").critique_style == "brief"
    assert Settings().critique_style == "verdict" and not Settings().prefill
    assert Settings(engine="symbolic").critique_style == "brief", "no model, so no model's style"
    assert Settings(model="another").critique_style == "brief"
    assert Settings().critique_style == "verdict", "of the demo judge"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for judge in TESTBED_JUDGES:
        with pytest.raises(ValueError, match=r"testbed/judge\S*: build it with `capo testbed"):
            local_model(judge)


def test_prompts_may_go_to_a_pipe_or_into_a_new_folder(tmp_path: Path) -> None:
    sent = tmp_path / "rollouts.jsonl"
    sent.write_text(json.dumps({"question": "q", "response": "r"}) + "\n")
    command = [sys.executable, "-m", "capo_client", "prompt", str(sent), "--out"]
    piped = subprocess.run(
        [*command, "/dev/stdout"], capture_output=True, text=True, check=True, timeout=60
    )
    redirected = tmp_path / "redirected"
    with redirected.open("w") as file:
        subprocess.run([*command, "/dev/stdout"], stdout=file, check=True, timeout=60)
    kept = tmp_path / "a" / "b" / "prompts.jsonl"
    subprocess.run([*command, str(kept)], check=True, timeout=60)
    for text in (piped.stdout, redirected.read_text(), kept.read_text()):
        assert json.loads(text)["id"] == "line-1", "one prompt and nothing else"
    assert "1 prompts in /dev/stdout" in piped.stderr
