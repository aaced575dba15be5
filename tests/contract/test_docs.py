"""What the pages for users say to run, run against a real service."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import kit_docs
from capo_trainer.recipe import load_recipe
from kit_service import Service

ROOT = Path(__file__).resolve().parents[2]
RUN = {
    "sh": ["bash", "-ceu"],
    "python": [sys.executable, "-c"],
    "js": ["node", "--input-type=module", "-e"],
}
PATH = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # where `capo` is
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def blocks(page: str) -> list[tuple[str, str]]:
    return [(m[1], m[2]) for m in BLOCK.finditer((ROOT / "docs" / page).read_text("utf-8"))]


@pytest.mark.parametrize(("language", "text"), blocks("any-framework.md"))
def test_every_block_of_the_page_for_any_framework_runs(
    service: Service, language: str, text: str
) -> None:
    if language == "js" and not shutil.which("node"):
        pytest.skip("no node on this machine")
    done = subprocess.run(
        [*RUN[language], text], capture_output=True, text=True, timeout=120, check=False,
        env=os.environ | {"CAPO_URL": service.url},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    if "token_rewards" in text and language != "sh":
        assert done.stdout.split() == ["[2.0,", "2.0,", "2.0,", "2.0]"] or done.stdout.split() == [
            "[2,2,2,2]"
        ]
    elif language == "sh":
        assert '"token_rewards":[2.0,2.0,2.0,2.0]' in done.stdout


OTHERS = [block for block in kit_docs.blocks() if block.page.name != "any-framework.md"]


@pytest.mark.parametrize("block", OTHERS, ids=str)
def test_every_other_block_runs_or_is_checked(
    service: Service, block: kit_docs.Block, tmp_path: Path
) -> None:
    if block.why_not or block.language not in RUN:
        kit_docs.check(block)
        return
    text = block.text.replace("http://127.0.0.1:8000", service.url)
    done = subprocess.run(
        [*RUN[block.language], text], capture_output=True, text=True, timeout=120, check=False,
        env=os.environ | {"CAPO_URL": service.url, "PATH": PATH}, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "problem" not in done.stdout, done.stdout


@pytest.mark.parametrize("block", kit_docs.inline() + kit_docs.headers(), ids=str)
def test_commands_in_the_text_and_at_the_head_of_recipes_are_checked(block: kit_docs.Block) -> None:
    kit_docs.check(block)


def test_every_recipe_has_a_header_that_is_read() -> None:
    recipes = {path for path in kit_docs.HEADED if path.is_relative_to(ROOT / "recipes")}
    assert len(recipes) >= 6
    assert recipes <= {block.page for block in kit_docs.headers()}


RECIPES = [path for path in kit_docs.HEADED if path.is_relative_to(ROOT / "recipes")]


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_recipes_can_be_read(recipe: Path) -> None:
    """Those of the trainer are checked as by `--dry-run`; the others are run by tests/adapters."""
    text = recipe.read_text("utf-8")
    if recipe.suffix == ".toml":
        load_recipe(recipe)
    elif recipe.suffix == ".sh":
        subprocess.run(["bash", "-n", recipe], check=True, timeout=30)
    else:
        language = {".py": "python", ".yaml": "yaml"}[recipe.suffix]
        kit_docs.check(kit_docs.Block(recipe, 1, language, text, None))


@pytest.mark.parametrize("page", [*kit_docs.PAGES, *kit_docs.HEADED], ids=lambda page: page.name)
def test_variables_that_are_named_exist(page: Path) -> None:
    """`capo serve` refuses to start if a variable with its prefix is not known."""
    assert not kit_docs.unknown_variables(page.read_text("utf-8"))


@pytest.mark.parametrize("page", [*kit_docs.PAGES, *kit_docs.HEADED], ids=lambda page: page.name)
def test_who_names_a_service_elsewhere_says_how_it_listens_there(page: Path) -> None:
    """`capo serve` listens to its own machine alone, so http://judge:8000 would not answer."""
    text = page.read_text("utf-8")
    if re.search(r"https?://(judge|SERVICE)\b", text, re.IGNORECASE) and "helm" not in page.parts:
        assert "--host 0.0.0.0" in text and re.search(r"CAPO_API_KEY|\bkeys?\b", text)


def test_blocks_that_are_wrong_are_found() -> None:
    def wrong(language: str, text: str) -> None:
        with pytest.raises((AssertionError, SyntaxError, ValueError)):
            kit_docs.check(kit_docs.Block(ROOT / "README.md", 1, language, text, "a reason"))

    wrong("python", "for")
    wrong("sh", "capo serve --no-such-option 3")
    wrong("sh", "capo nothing")
    wrong("sh", "capo credit --out x")
    wrong("inline", "capo serve --modle x")
    wrong("sh", "capo serve --engine-arg tensor_parallel=4")
    wrong("sh", "capo train --config recipes/x.toml --set algorithm.epoch=1")
    wrong("sh", ". x/activate")
    wrong("diff", " a = (\n-    1\n+    2\n")
    wrong("diff", " capo info \\\n-    --url x\n+    --uri x\n")
    wrong("sh", "capo serve --set critique_formatt=tag")
    wrong("sh", "accelerate launch -m capo_client train --configuration x")
    wrong("sh", "make nothing")
    wrong("sh", "pip install '.[nothing]'")
    wrong("sh", "docker build -f deploy/nothing .")
    wrong("sh", "nobody-knows-this")
    wrong("toml", "a =")
    wrong("jsonc", "{")
    wrong("", "capo serve")


def test_pages_name_files_that_are_there() -> None:
    for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text("utf-8")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"
