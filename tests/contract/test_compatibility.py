"""An old client with today's service, today's client with an old service; fields are only added."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import typer

import capo_wire as wire
from capo_client import CreditClient
from capo_client.cli import demo
from capo_client.cli.doctor.run import doctor
from capo_client.cli.ports import free_port
from capo_service.engine.base import CritiqueSampling
from kit_engine import running
from kit_scripted import ScriptedEngine
from kit_service import serving, settings

HERE = Path(__file__).parents[1]
COMPAT = HERE / "compat"


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An environment in which the packages are those of the first wire 1."""
    folder = tmp_path_factory.mktemp("wire-1")
    with zipfile.ZipFile(COMPAT / "wire-1.zip") as packed:
        packed.extractall(folder)
    path = os.pathsep.join([str(folder / "client"), str(folder / "service")])
    environment = {**os.environ, "PYTHONPATH": path}
    which = "import capo_client, capo_service; print(capo_client.__file__, capo_service.__file__)"
    said = subprocess.run(
        [sys.executable, "-c", which], env=environment, capture_output=True, text=True, check=True
    )
    assert said.stdout.count(str(folder)) == 2
    return environment


def flags_the_first(prompt: str, sampling: CritiqueSampling) -> str:
    return '{"analysis": "x", "incorrect_steps": [0]}'


def test_an_old_client_reads_a_new_service(tmp_path: Path, old: dict[str, str]) -> None:
    lines = [
        {"id": e.id, "question": e.question, "reference": e.reference, "response": e.response,
         "token_offsets": e.token_offsets}
        for e in demo.load_examples()
    ]  # fmt: skip
    # One that today's service has more to say of.
    lines.append({"id": "odd", "question": "q", "response": "Solution", "outcome": 0})
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with serving(ScriptedEngine(flags_the_first), settings(tmp_path)) as service:
        for arguments in (
            ["credit", source, "--out", out, "--url", service.url, "--critiques", "--n", "2"],
            ["info", "--url", service.url],
        ):
            done = subprocess.run(
                [sys.executable, "-m", "capo_client", *map(str, arguments)],
                env=old, capture_output=True, text=True, check=False, timeout=120,
            )  # fmt: skip
            assert done.returncode == 0, done.stdout + done.stderr
    results = [json.loads(line) for line in out.read_text().splitlines()]
    assert [r["status"] for r in results] == ["ok"] * len(lines)
    for result, line in zip(results[:-1], lines, strict=False):
        assert len(result["token_rewards"]) == len(line["token_offsets"])  # type: ignore[arg-type]
        assert result["steps"][0]["wrong"] and len(result["critiques"]) == 2
    assert "suspicion" not in results[-1]  # which it does not know, and leaves out


@pytest.fixture(scope="module")
def old_service(old: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    port = free_port()
    given = {"port": port, "verify_workers": 1, "nonce_secret": "s"}
    command = [sys.executable, str(COMPAT / "serve_wire_1.py"), json.dumps(given)]
    log, path = tmp_path_factory.mktemp("old") / "log", old["PYTHONPATH"]
    with running(command, port, "/health/ready", log, "scripted", PYTHONPATH=path) as service:
        yield service.url


def test_a_new_client_reads_an_old_service(old_service: str) -> None:
    with CreditClient(old_service) as client:
        assert client.info().wire == 1
        examples = demo.load_examples()
        batch = client.credit(
            [example.rollout([]) for example in examples], include=["token_rewards"]
        )
        assert len(batch.raise_for_errors().credited) == len(examples)
        assert all(result.suspicion == [] for result in batch.credited)
        for example, result in zip(examples, batch.credited, strict=True):
            assert len(result.token_rewards or ()) == len(example.token_offsets)


def test_the_doctor_examines_an_old_service(
    old_service: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(typer.Exit) as ended:
        doctor(old_service)
    shown = capsys.readouterr().out
    assert ended.value.exit_code == 0, shown
    for line in ("one reward for each of 14 tokens", "rollouts/s", "HTTP API 1"):
        assert line in shown


def test_a_field_that_an_old_service_does_not_know_is_named(old_service: str) -> None:
    body = {"rollouts": [{"question": "q", "response": "a", "outcome": 1}], "from_wire_9": True}
    answer = httpx.post(f"{old_service}/credit", json=body)
    assert answer.status_code == 422
    assert answer.json()["field"] == "from_wire_9" and "unknown field" in answer.json()["detail"]


OLD = json.loads((COMPAT / "openapi-1.json").read_text())
NEW = json.loads((HERE.parent / "docs" / "openapi.json").read_text())
PROSE = {"description", "title", "summary", "default"}


def without_prose(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: without_prose(v) for k, v in value.items() if k not in PROSE}
    return [without_prose(v) for v in value] if isinstance(value, list) else value


REQUESTS = {"CreditRequest", "Rollout", "Voting", "Reward", "Segment", "ChatTurn", "TextPart"}


def accepts(new: Any, old: Any) -> bool:
    """Whether every value of the old schema is one of the new: it may have more values, or null."""
    if new == old:
        return True
    if "enum" in new and "enum" in old:
        return set(new["enum"]) >= set(old["enum"])
    if "items" in new and "items" in old:
        return accepts(new["items"], old["items"])
    if "anyOf" in old:
        return all(accepts(new, part) for part in old["anyOf"])
    return any(accepts(part, old) for part in new.get("anyOf", ()))


def test_a_schema_with_fewer_values_is_noticed() -> None:
    a, ab = {"enum": ["a"]}, {"enum": ["a", "b"]}
    assert accepts(ab, a) and not accepts(a, ab)
    assert accepts({"anyOf": [ab, {"type": "null"}]}, a)
    assert not accepts(a, {"anyOf": [a, {"type": "null"}]})
    text, null = {"type": "string"}, {"type": "null"}
    assert accepts({"anyOf": [text, ab, null]}, {"anyOf": [text, a]})
    assert not accepts({"anyOf": [text, a, null]}, {"anyOf": [text, ab]})
    assert accepts({"items": ab}, {"items": a}) and not accepts({"items": a}, {"items": ab})


@pytest.mark.parametrize("name", sorted(OLD["components"]["schemas"]))
def test_fields_are_only_added(name: str) -> None:
    old_model = OLD["components"]["schemas"][name]
    new_model = NEW["components"]["schemas"][name]
    for field, schema in old_model.get("properties", {}).items():
        was, now = without_prose(schema), without_prose(new_model["properties"][field])
        assert accepts(now, was) if name in REQUESTS else now == was, field
    was, now = set(old_model.get("required", ())), set(new_model.get("required", ()))
    if name in REQUESTS:
        assert now <= was, "an old client would not send it"
        assert new_model.get("additionalProperties") == old_model.get("additionalProperties")
    else:
        assert was <= now, "an old client would miss it"


def test_every_route_and_status_is_still_there() -> None:
    for path, methods in OLD["paths"].items():
        for method, route in methods.items():
            assert set(route["responses"]) <= set(NEW["paths"][path][method]["responses"])


def test_the_wire_tells_its_version(tmp_path: Path) -> None:
    with serving(ScriptedEngine(), settings(tmp_path)) as service:
        assert httpx.get(f"{service.url}/info").json()["wire"] == wire.VERSION == 1
