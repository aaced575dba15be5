"""Files of JSON lines as other programs write them, through everything that reads such files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from capo_client.cli.evaluate.formats import read
from capo_service.cli.check_alignment import Checker
from capo_service.cli.dump_prompts import judge_prompts
from capo_service.judges.loading import load_profile
from capo_service.pipeline.canary import load_canaries
from capo_service.settings import Settings
from capo_trainer.data import read_prompts
from capo_wire.jsonlines import read_lines
from kit import tokenizer

# Ends of lines to `str.splitlines`, and not to JSON.
ENDS = "\u2028", "\u2029", "\x85"
ENCODINGS = "utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32"


class AnyAnswer:
    def readable(self, answer: str) -> bool:
        return True

    def __call__(self, response: str, answer: str) -> float | None:
        return None


def by_the_trainer(path: Path, folder: Path) -> list[str]:
    return [prompt.question for prompt in read_prompts(path, AnyAnswer())]


def by_eval(path: Path, folder: Path) -> list[str]:
    return [example.question for example in read(path)[1]]


def by_capo_prompt(path: Path, folder: Path) -> list[str]:
    asked = list(judge_prompts(path, load_profile(), Settings(), None))
    assert [each["id"] for each in asked] == ["line-1", "line-3"]
    return [each["messages"][1]["content"] for each in asked]


def by_check_alignment(path: Path, folder: Path) -> list[str]:
    PreTrainedTokenizerFast(tokenizer_object=tokenizer("gpt2")).save_pretrained(folder)
    lines = list(Checker(str(folder)).lines(path))
    assert [(line.line, line.verdict) for line in lines] == [(1, "exact"), (3, "exact")]
    return [text for text in TEXTS for line in lines if line.tokens == len(tokens(text))]


def by_the_known_answer_probe(path: Path, folder: Path) -> list[str]:
    return [canary.question for canary in load_canaries(path)]


def tokens(text: str) -> list[int]:
    return tokenizer("gpt2").encode(text).ids


TEXTS = [f"Was ist 2{end}+ 2 für €?" for end in ("".join(ENDS), " ")]
READERS = [by_the_trainer, by_eval, by_capo_prompt, by_check_alignment, by_the_known_answer_probe]


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_every_reader_takes_files_of_other_programs(
    reader: Callable[[Path, Path], list[str]], encoding: str, tmp_path: Path
) -> None:
    entries: list[dict[str, Any]] = [
        {"question": text, "answer": "#### 4", "response": text} for text in TEXTS
    ]
    if reader is by_eval:
        entries = [each | {"steps": ["a"], "wrong_steps": []} for each in entries]
    if reader is by_the_known_answer_probe:
        labels: list[list[int]] = [[], [0]]
        entries = [
            {"question": text, "steps": ["a"], "wrong_steps": wrong}
            for text, wrong in zip(TEXTS, labels, strict=True)
        ]
    lines = [json.dumps(each, ensure_ascii=False) for each in entries]
    path = tmp_path / "data.jsonl"
    path.write_bytes("\r\n\r\n".join(lines).encode(encoding))
    found = reader(path, tmp_path)
    assert len(found) == 2
    assert all(text in got for text, got in zip(TEXTS, found, strict=True))


def test_pipes_and_short_files_are_read(tmp_path: Path) -> None:
    path = tmp_path / "data"
    for text in ("", "{", "{}", "{}\n", "1\r\n\r\n2"):
        for mark in ("", "\ufeff"):
            path.write_bytes((mark + text).encode())
            assert "".join(read_lines(path)) == text


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"response": 5}', "line 2: response is not a string"),
        ('{"response_token_ids": "12"}', "line 2: response_token_ids is not a list of integers"),
        ('{"response_token_ids": [1.0]}', "line 2: response_token_ids is not a list of integers"),
        ('{"response_token_ids": [null]}', "line 2: response_token_ids is not a list of integers"),
        ("\xff", "cannot be read"),
    ],
)
def test_check_alignment_names_the_line_that_is_no_rollout(
    line: str, said: str, tmp_path: Path
) -> None:
    PreTrainedTokenizerFast(tokenizer_object=tokenizer("gpt2")).save_pretrained(tmp_path)
    path = tmp_path / "data.jsonl"
    path.write_bytes(b'{"response": "a"}\n' + line.encode("latin-1"))
    with pytest.raises(ValueError, match=said):
        list(Checker(str(tmp_path)).lines(path))
