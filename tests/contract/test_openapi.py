"""The served OpenAPI, fuzzed by schemathesis; and docs/wire.md, held to the models."""

from __future__ import annotations

import re
from pathlib import Path

import httpx
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import CHECKS, load_all_checks

import capo_wire as wire
from capo_service.settings import Settings
from kit_service import Service

ROOT = Path(__file__).resolve().parents[2]
# All that schemathesis has but one: JSON Schema cannot say all that makes a request valid (fields
# that go together, an integer that is not written 1.0), so schema-valid data may be refused.
load_all_checks()
ALL = [check for check in CHECKS.get_all() if check.__name__ != "positive_data_acceptance"]


def test_every_operation_keeps_to_its_description(service: Service) -> None:
    schema = schemathesis.openapi.from_url(f"{service.url}/openapi.json")
    operations = [result.ok() for result in schema.get_all_operations()]
    assert {operation.path for operation in operations} >= {
        "/credit", "/info", "/metrics", "/openrlhf", "/slime",
    }  # fmt: skip
    for operation in operations:
        assert operation is not None

        @settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
        @given(case=operation.as_strategy())
        def run(case: schemathesis.Case) -> None:
            case.call_and_validate(checks=ALL)

        run()
    assert len(ALL) >= 10
    assert httpx.get(f"{service.url}/health/ready").status_code == 200


def test_the_docs_are_what_the_models_and_settings_say() -> None:
    """`python tools/docs.py` writes them."""
    from importlib.util import module_from_spec, spec_from_file_location

    spec = spec_from_file_location("docs", ROOT / "tools" / "docs.py")
    assert spec is not None and spec.loader is not None
    tool = module_from_spec(spec)
    spec.loader.exec_module(tool)
    assert (ROOT / "docs" / "wire.md").read_text("utf-8") == tool.wire_md()
    assert (ROOT / "docs" / "settings.md").read_text("utf-8") == tool.settings_md()
    assert (ROOT / "docs" / "openapi.json").read_text("utf-8") == tool.openapi_json()


def test_defaults_and_bounds_are_shown_as_one_would_write_them() -> None:
    """As `seed` was below 9.00719925474099e+15, and critique_style had no default."""
    text = (ROOT / "docs" / "wire.md").read_text("utf-8")
    assert "< 9007199254740992 " in text and not re.search(r"[<>]=? [\d.]+e", text)
    page = (ROOT / "docs" / "settings.md").read_text("utf-8")
    shown = dict(re.findall(r"^\| `(\w+)`<br>\S+ \| [^|]+ \| (\S*) \|", page, re.MULTILINE))
    defaults = Settings().model_dump(mode="json")
    for name, value in defaults.items():
        assert (shown[name] == "") == (value is None), name
    assert shown["critique_style"] == "`brief`" and shown["prefill"] == "`true`"
    assert shown["log_rollouts"] == "`false`"


def test_the_wire_is_the_one_of_the_design() -> None:
    """The example of the design document is a valid request, with its defaults."""
    request = wire.CreditRequest.model_validate(
        {
            "rollouts": [
                {
                    "id": "r1", "question": "q", "response": "x" * 120,
                    "response_token_ids": [1, 2], "tokenizer": "name", "reference": "42",
                    "outcome": 1.0, "steps": [[0, 57], [57, 120]],
                }
            ],
            "voting": {"method": "majority", "n": 4, "early_stop": True, "temperature": 0.7,
                       "top_p": 0.9, "max_tokens": 2048, "seed": None},
            "reward": {"scheme": "capo", "w_whole": 2.0, "w_process": 1.0},
            "segment": {"method": "blank_line"},
            "show_reference": True,
            "include": ["token_rewards", "critiques"],
            "deadline_ms": 120000,
        }
    )  # fmt: skip
    defaults = wire.CreditRequest(rollouts=request.rollouts)
    assert defaults.voting.critiques == request.voting.critiques == 4
    assert defaults.reward == request.reward
    assert defaults.segment.method is None  # blank_line, but turn for trajectories
    assert defaults.deadline_ms == request.deadline_ms
