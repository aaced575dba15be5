"""The real thing: `capo serve` and a vLLM server of the embedded model, as processes, once each.

Tests that take `service` run on both engines: vLLM in the service's own process tree, and the
openai engine before a vLLM server.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from capo_service.engine import embedded
from kit_engine import Running, capo_serve, running, vllm_server


@pytest.fixture(scope="session")
def vllm_service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """vLLM in process, with the shortest critiques: most tests run here."""
    command, port = capo_serve("embedded", "--critique-style", "verdict")
    log = tmp_path_factory.mktemp("logs") / "capo-vllm.log"
    with running(command, port, "/health/ready", log, "vllm") as service:
        yield service


@pytest.fixture(scope="session")
def upstream(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A real vLLM server of the embedded model."""
    with vllm_server(tmp_path_factory.mktemp("logs") / "vllm-serve.log") as server:
        yield server


@pytest.fixture(scope="session")
def openai_service(
    upstream: Running, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    """The openai engine before it, with critiques of the default length."""
    command, port = capo_serve(
        "--engine", "openai", "--upstream", upstream.url, "--model", "judge",
        "--set", f"tokenizer={embedded.folder()}",
    )  # fmt: skip
    log = tmp_path_factory.mktemp("logs") / "capo-openai.log"
    with running(command, port, "/health/ready", log, "openai") as service:
        yield service


@pytest.fixture(params=["vllm", "openai"], scope="session")
def service(request: pytest.FixtureRequest) -> Running:
    found: Running = request.getfixturevalue(f"{request.param}_service")
    return found


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that kill an engine come last. The start of a server counts as part of a test."""
    for item in items:
        if item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(900))
    items.sort(key=lambda item: "kills" in item.keywords)
