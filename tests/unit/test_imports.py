"""What `lint-imports` cannot say: which modules of the client the service may import, and no others."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# What reads and writes data, as the service does; nothing that asks a service or shows something.
ALLOWED = {"addresses"}


def of_the_client(source: str) -> set[str]:
    """Modules, and names of the package itself, that a module imports from capo_client."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module == "capo_client":
            found |= {alias.name for alias in node.names}
        else:
            named = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if isinstance(node, ast.Import):
                named = [alias.name for alias in node.names]
            found |= {name.split(".")[1] for name in named if name.startswith("capo_client.")}
            found |= {name for name in named if name == "capo_client"}
    return found


def test_the_service_imports_nothing_of_the_client_that_asks_a_service() -> None:
    files = [*(ROOT / "service").rglob("*.py")]
    imported = {path.name: of_the_client(path.read_text("utf-8")) for path in files}
    assert set().union(*imported.values()) >= {"addresses"}
    assert {name: more for name, found in imported.items() if (more := found - ALLOWED)} == {}


def test_every_way_to_import_is_seen() -> None:
    source = "import capo_client.a.b\nfrom capo_client.c import d\nfrom capo_client import e, f\nimport capo_client"
    assert of_the_client(source) == {"a", "c", "e", "f", "capo_client"}
