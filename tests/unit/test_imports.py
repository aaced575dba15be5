"""What `lint-imports` cannot say: allow-lists of what each part of the project imports directly.

A new package, a new room of the service and a new import fail here until they are listed. Which
way imports point between modules is in pyproject.toml ([tool.importlinter]).
"""

from __future__ import annotations

import ast
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ("client", "service", "trainer")

# By package, or room of the service or the client: what it imports when it is imported, and what it
# imports only inside functions. A name stands for all modules below it.
ALLOWED = {
    "capo_wire": ("pydantic", "math_verify latex2sympy2_extended sympy tokenizers"),
    "capo_client": ("capo_wire httpx pydantic", "numpy opentelemetry torch"),
    "capo_client.adapters": (
        "capo_client capo_wire skyrl swift torch transformers trl verifiers verl",
        "nemo_gym omegaconf pydantic ray slime",
    ),
    "capo_client.cli": ("capo_client capo_wire httpx pydantic rich typer", "matplotlib"),
    "capo_service": ("", ""),
    # No pydantic, so of the wire only what has no models.
    "capo_service.core": (
        "capo_wire.segment_merging capo_wire.segmentation capo_wire.special_text jinja2 re2",
        "",
    ),
    "capo_service.judges": ("capo_service.core pydantic", ""),
    "capo_service.concurrency": ("", ""),
    "capo_service.settings": (
        "capo_service.core capo_wire pydantic pydantic_settings",
        "",
    ),
    "capo_service.engine": (
        "capo_service.settings capo_wire.proxies capo_wire.retry_policy "
        "capo_wire.special_text httpx numpy psutil tokenizers transformers vllm",
        "prometheus_client torch",
    ),
    "capo_service.scheduling": ("capo_wire pydantic", ""),
    "capo_service.observability": (
        "capo_service.scheduling capo_service.settings capo_service.version capo_wire "
        "opentelemetry prometheus_client",
        "pythonjsonlogger",
    ),
    "capo_service.pipeline": (
        "capo_service.concurrency capo_service.core capo_service.engine capo_service.judges "
        "capo_service.observability capo_service.scheduling capo_service.settings "
        "capo_service.version capo_wire cachetools pebble pydantic tokenizers",
        "redis transformers",
    ),
    "capo_service.api": (
        "capo_service.concurrency capo_service.core capo_service.engine "
        "capo_service.observability capo_service.pipeline capo_service.scheduling "
        "capo_service.settings capo_service.version capo_wire fastapi prometheus_client pydantic "
        "pydantic_core ray starlette uvicorn",
        "",
    ),
    "capo_service.cli": (
        "capo_service.api capo_service.concurrency capo_service.core capo_service.engine "
        "capo_service.judges capo_service.observability capo_service.pipeline capo_service.scheduling "
        "capo_service.settings capo_wire pydantic typer",
        "transformers vllm",
    ),
    "capo_trainer": (
        "accelerate capo_client capo_wire httpx pydantic rich torch transformers typer",
        "math_verify wandb",
    ),
    "capo_testbed": (
        "capo_client capo_trainer capo_wire httpx tokenizers torch transformers typer",
        "accelerate matplotlib",
    ),
}


def modules(part: str) -> list[Path]:
    """The files of a part, without those of the parts below it that are listed themselves."""
    [folder] = [
        found for each in SOURCES if (found := ROOT / each / part.replace(".", "/")).is_dir()
    ]
    below = [name for name in ALLOWED if name.startswith(f"{part}.")]
    rooms = [folder / name.removeprefix(f"{part}.") for name in below]
    return [
        path
        for path in sorted(folder.rglob("*.py"))
        if not any(path.is_relative_to(room) for room in rooms)
    ]


def imports(source: str) -> tuple[set[str], set[str]]:
    """Modules that a source imports when it is imported, and those inside functions."""
    found: tuple[set[str], set[str]] = (set(), set())
    for node, inside in statements(ast.parse(source)):
        if isinstance(node, ast.Import):
            found[inside].update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, "imports are absolute"
            found[inside].update(f"{node.module}.{alias.name}" for alias in node.names)
    return found


def statements(node: ast.AST, inside: bool = False) -> Iterator[tuple[ast.AST, bool]]:
    for child in ast.iter_child_nodes(node):
        yield child, inside
        deeper = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)
        yield from statements(child, inside or deeper)


def covers(name: str, module: str) -> bool:
    return f"{module}.".startswith(f"{name}.")


def of_part(part: str) -> tuple[set[str], set[str]]:
    """What a part imports that is neither its own nor of the standard library."""
    eager: set[str] = set()
    lazy: set[str] = set()
    for path in modules(part):
        for total, more in zip((eager, lazy), imports(path.read_text("utf-8")), strict=True):
            total |= {
                module
                for module in more
                if module.partition(".")[0] not in sys.stdlib_module_names
                and not covers(part, module)
            }
    return eager, lazy


@pytest.mark.parametrize("part", ALLOWED)
def test_a_part_imports_what_it_is_allowed_to(part: str) -> None:
    allowed = [names.split() for names in ALLOWED[part]]
    eager, lazy = of_part(part)

    def others(imported: set[str], names: list[str]) -> list[str]:
        return sorted(m for m in imported if not any(covers(name, m) for name in names))

    assert others(eager, allowed[0]) == [], f"imported by {part} when it is imported"
    assert others(lazy, allowed[0] + allowed[1]) == [], f"imported by functions of {part}"
    for imported, names in ((eager, allowed[0]), (lazy, allowed[1])):
        unused = [name for name in names if not any(covers(name, m) for m in imported)]
        assert unused == [], f"allowed in {part}, and not imported"


def test_every_package_and_every_room_is_listed() -> None:
    packages = {
        path.parent.name for source in SOURCES for path in (ROOT / source).glob("*/__init__.py")
    }
    rooms = {f"capo_service.{p.parent.name}" for p in (ROOT / "service").glob("*/*/__init__.py")}
    named = {name for name in ALLOWED if name.startswith("capo_service.")}
    assert packages == {name for name in ALLOWED if "." not in name} and rooms == named
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]
    assert packages == set(settings["importlinter"]["root_packages"])
    assert packages == set(settings["mypy"]["packages"])


def test_every_way_to_import_is_seen() -> None:
    source = (
        "import a.b\nfrom c import d\nfrom e.f import g, h\nif a:\n    import i\n"
        "def f():\n    import j\nclass A:\n    import k\n    async def g(self):\n"
        "        with a:\n            from l import m\n"
    )
    assert imports(source) == ({"a.b", "c.d", "e.f.g", "e.f.h", "i", "k"}, {"j", "l.m"})
    with pytest.raises(AssertionError, match="absolute"):
        imports("from . import a")
    assert covers("a.b", "a.b.c") and covers("a.b", "a.b") and not covers("a.b", "a.bc")
