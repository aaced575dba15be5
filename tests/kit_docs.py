"""What our pages say to run: run, or, where that cannot be done here, checked command by command.

Code blocks, commands within the text, and the headers of recipes and of what is deployed.
"""

from __future__ import annotations

import ast
import itertools
import json
import re
import shlex
import tomllib
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path

import typer.main
import yaml

from capo_client.cli import main
from capo_service.settings import Settings

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(
    r"(?:^<!-- not run here: (?P<why>.+?) -->\n)?^```(?P<language>[\w-]*)[^\n]*\n(?P<text>.*?)^```",
    re.M | re.S,
)
INLINE = re.compile(r"`((?:capo|make|pip|accelerate|serve) [^`]+)`")
HEADED = [
    path
    for folder in ("recipes", "deploy")
    for path in sorted((ROOT / folder).rglob("*"))
    if path.suffix in (".toml", ".yaml", ".sh", ".py") or path.name.startswith("Dockerfile")
]
# Commands that are not ours and that no machine of ours has; what they name of ours is checked.
FOREIGN = {
    ".venv/bin/python",
    "accelerate",
    "curl",
    "docker",
    "helm",
    "kubectl",
    "python",
    "python3",
    "ray",
    "serve",
    "vllm",
}


@dataclass(frozen=True)
class Block:
    page: Path
    line: int
    language: str
    text: str
    why_not: str | None

    def __str__(self) -> str:
        return f"{self.page.name}:{self.line}"


def blocks() -> list[Block]:
    """Every fenced block of every page."""
    found = []
    for page in PAGES:
        source = page.read_text("utf-8")
        for match in BLOCK.finditer(source):
            line = source.count("\n", 0, match.start("language")) + 1
            found.append(Block(page, line, match["language"], match["text"], match["why"]))
    return found


def headers() -> list[Block]:
    """What the comments at the head of recipes and of files to deploy say to run.

    A line there that is indented is a line of a script, unless it begins with an option.
    """
    found = []
    for path in HEADED:
        source = path.read_text("utf-8")
        if path.suffix == ".py":
            head = ast.get_docstring(ast.parse(source)) or ""
        else:
            lines = itertools.takewhile(lambda line: line.startswith("#"), source.splitlines())
            head = "\n".join(line.removeprefix("#").removeprefix(" ") for line in lines)
        script = re.findall(r"^  +([^\s-].*)$", head.replace("\\\n", " "), re.M)
        if script:
            found.append(Block(path, 1, "sh", "\n".join(script), "it is a comment"))
        for text in INLINE.findall(head):
            found.append(Block(path, 1, "inline", " ".join(text.split()), "it is in the text"))
    return found


def inline() -> list[Block]:
    """Commands within the text of the pages."""
    found = []
    for page in PAGES:
        source = BLOCK.sub(lambda match: "\n" * match[0].count("\n"), page.read_text("utf-8"))
        for match in INLINE.finditer(source):
            line = source.count("\n", 0, match.start()) + 1
            text = " ".join(match[1].split())
            found.append(Block(page, line, "inline", text, "it is in the text"))
    return found


def check(block: Block) -> None:
    """What can be said of a block without running it."""
    if block.language == "python":
        compile(block.text, str(block), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    elif block.language == "sh":
        for command in commands(block.text):
            check_command(command)
    elif block.language == "inline":  # what stands in a sentence may be cut short
        for command in commands(block.text):
            check_command(command, whole=False)
    elif block.language == "toml":
        tomllib.loads(block.text)
    elif block.language == "yaml":
        list(yaml.safe_load_all(block.text))
    elif block.language == "json":
        json.loads(block.text)
    elif block.language == "jsonc":
        json.loads(re.sub(r"\{\.\.\.\}", "{}", re.sub(r"//.*", "", block.text)))
    else:
        assert block.language == "text", (
            f"{block}: a block of {block.language or 'no'} language is not checked"
        )


def commands(text: str) -> list[list[str]]:
    """The simple commands of a script, without comments, variables set before them, or redirections."""
    found: list[list[str]] = []
    for line in text.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        part: list[str] = []
        for word in [*lexer, ";"]:
            if word in (";", "|", "&", "&&"):
                part = part[: next((i for i, w in enumerate(part) if w in (">", ">>", "<")), None)]
                while part and re.fullmatch(r"export|[A-Z_]+=.*", part[0]):
                    part.pop(0)
                if part:
                    found.append(part)
                part = []
            else:
                part.append(word)
    return found


def check_command(words: list[str], whole: bool = True) -> None:
    """Its options and targets exist, and what it names of this repository is there."""
    name, *rest = words
    if name == "capo":
        check_capo(rest, whole)
    elif name == "make":
        rules = (ROOT / "Makefile").read_text()
        for target in rest:
            if re.match(r"[A-Z]+=", target):  # a variable
                continue
            pattern = re.sub(r"^bench-.*", "bench-%", target)
            measured = target.removeprefix("bench-")
            assert measured == target or (ROOT / "bench" / f"{measured}.py").exists(), target
            assert re.search(rf"^{re.escape(pattern)}(?=[ :]).*", rules, re.M), (
                f"make has no target {target}"
            )
    elif name == "pip":
        extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
            "optional-dependencies"
        ]
        for named in re.findall(r"\[([\w,]+)\]", " ".join(rest)):
            assert set(named.split(",")) <= extras.keys(), f"no extra {named}"
    else:
        is_ours = (ROOT / name).is_file()
        assert name in FOREIGN or is_ours, f"{name}: not a command that is known here"
        if "capo_client" in rest:
            check_capo(rest[rest.index("capo_client") + 1 :])
    for word in rest:
        if re.match(r"(deploy|recipes|tools|bench|docs|tests)/", word):
            assert (ROOT / word).exists(), f"{word} is not there"


def check_capo(words: list[str], whole: bool = True) -> None:
    """The command is there and takes these options, and a setting of `--set` is one."""
    if not words or words[0].startswith("-") or words[0].isupper():
        return
    app = typer.Typer()
    app.registered_commands = list(main.app.registered_commands)
    if words[0] in {entry.name for entry in entry_points(group="capo.commands")}:
        [entry] = [each for each in entry_points(group="capo.commands") if each.name == words[0]]
        app.command(entry.name)(entry.load())
    group = typer.main.get_command(app)
    context = group.make_context("capo", ["--help"], resilient_parsing=True)
    command = group.get_command(context, words[0])  # type: ignore[attr-defined]
    assert command is not None, f"no command capo {words[0]}"
    if not whole:
        known = {option for each in command.params for option in each.opts}
        named = {word.partition("=")[0] for word in words if word.startswith("--")}
        assert named <= known | {"--help"}, f"capo {words[0]} has not {named - known}"
        return
    try:
        command.make_context(words[0], list(words[1:]), parent=context)
    except Exception as error:  # Typer's own copy of click's, which it does not publish
        raise AssertionError(f"capo {' '.join(words)}: {error}") from error
    if words[0] == "serve":
        for option, value in itertools.pairwise(words):
            name = value.partition("=")[0].replace("-", "_")
            assert option != "--set" or name in Settings.model_fields, f"no setting {name}"
