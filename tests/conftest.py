"""CI tries the same examples every time; everyone else's runs go on exploring.

`HYPOTHESIS_PROFILE=many pytest tests/property` looks longer: 4,000 examples of each property.
"""

from __future__ import annotations

import os

import pytest
from hypothesis import settings

# The machine is shared: how long an example took says nothing.
settings.register_profile("ours", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)
settings.register_profile("many", deadline=None, max_examples=4000)
settings.load_profile(
    os.environ.get("HYPOTHESIS_PROFILE") or ("ci" if os.environ.get("CI") else "ours")
)


# Processes, fuzzers and whole corpora, without an engine. `make test-fast` leaves them to
# `make test-slow`; `make test` runs both.
SLOW = {
    "test_attack.py",
    "test_attacks.py",
    "test_cli.py",
    "test_client_processes.py",
    "test_compatibility.py",
    "test_connections.py",
    "test_descriptors.py",
    "test_docs.py",
    "test_eval.py",
    "test_eval_judges.py",
    "test_filejob.py",
    "test_first_contact.py",
    "test_fuzz.py",
    "test_health_check.py",
    "test_linear_time.py",
    "test_machine.py",
    "test_openapi.py",
    "test_operations.py",
    "test_upstream.py",
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.name in SLOW:
            item.add_marker(pytest.mark.slow)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """In CI a test that is skipped is one that guards nothing: what it needs must be there."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    skipped = reporter.stats.get("skipped", ()) if reporter else ()
    if os.environ.get("CI") and skipped:
        reporter.write_line(f"skipped in CI: {[report.nodeid for report in skipped]}", red=True)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
