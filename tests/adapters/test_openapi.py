"""A client that openapi-python-client makes of docs/openapi.json, against the real service."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
from kit_adapters import QUESTIONS, URL

PAGE = Path(__file__).parents[2] / "docs" / "openapi.json"


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("client")
    command = [sys.executable, "-m", "openapi_python_client", "generate", "--path", str(PAGE),
               "--output-path", str(folder / "out"), "--meta", "none"]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (folder / "out").rename(folder / "generated_capo")
    sys.path.insert(0, str(folder))
    return importlib.import_module("generated_capo")


def test_the_page_is_what_the_service_answers() -> None:
    assert httpx.get(f"{URL}/openapi.json").json() == json.loads(PAGE.read_text("utf-8"))


def test_the_generated_client_credits_a_rollout(package: Any) -> None:
    models = importlib.import_module("generated_capo.models")
    credit = importlib.import_module("generated_capo.api.default.credit_credit_post")
    question, answer = QUESTIONS[0]
    request = models.CreditRequest.from_dict(
        {
            "rollouts": [
                {
                    "question": question, "response": "3 * 4 = 12.\n\n12 - 2 = 10.",
                    "token_offsets": [[0, 11], [11, 13], [13, 25]], "reference": answer,
                }
            ]
        }
    )  # fmt: skip
    client = package.Client(base_url=URL, timeout=120)
    [result] = credit.sync(client=client, body=request).results
    assert result.status == "ok" and len(result.token_rewards) == 3


def test_the_generated_client_reads_what_the_service_has(package: Any) -> None:
    info = importlib.import_module("generated_capo.api.default.info_info_get")
    assert info.sync(client=package.Client(base_url=URL)).service == "capo-credit"
