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
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cache
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path

import typer.main
import yaml

from capo_client.cli import main
from capo_service.settings import Settings, environment
from capo_trainer.recipe import Recipe

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
    "cat",
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


VLLM_SHORT = {"-tp", "-pp", "-dp"}


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
    elif block.language == "diff":
        for sign in "-+":  # what was there before, and what is there then
            check(replace(block, language=_language(side := _side(block.text, sign)), text=side))
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


def _side(diff: str, sign: str) -> str:
    lines = [line for line in diff.splitlines() if line[:1] in (" ", "", sign)]
    return "\n".join(line[1:] for line in lines) + "\n"


def _language(text: str) -> str:
    return "sh" if re.match(r"(capo|python3?|accelerate) ", text) else "python"


def unknown_variables(text: str) -> set[str]:
    """Variables with the prefix CAPO_ that neither the service nor the client knows."""
    known = {environment.PREFIX + name.upper() for name in Settings.model_fields}
    named = set(re.findall(r"\bCAPO_[A-Z_]*[A-Z]\b(?!\*)", text))
    return {
        name
        for name in named - known - environment.NOT_SETTINGS
        if not environment.is_service_link(name, "tcp://10.0.0.1:8000")
    }


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
    if name == ".":
        assert rest[0].endswith("/bin/activate"), f". {rest[0]}: only an environment is activated"
    elif name == "capo":
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
    elif name == "pip" or name.endswith("/bin/pip"):
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
    """The command exists and takes these options, and what is set by `--set` exists."""
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
    known = {option for each in command.params for option in each.opts} | {"--help"}
    if words[0] == "serve":
        check_engine_arguments(words)
        words = without_vllm_options(words, known)
    if not whole:
        named = {word.partition("=")[0] for word in words if word.startswith("--")}
        assert named <= known, f"capo {words[0]} has not {named - known}"
        return
    try:
        command.make_context(words[0], list(words[1:]), parent=context)
    except Exception as error:  # Typer's own copy of click's, which it does not publish
        raise AssertionError(f"capo {' '.join(words)}: {error}") from error
    for option, value in itertools.pairwise(words):
        if option == "--set":
            check_setting(words[0], value.partition("=")[0])


def check_setting(command: str, name: str) -> None:
    """`--set NAME=VALUE` of `capo serve` and of `capo train`."""
    if command == "serve":
        assert name.replace("-", "_") in Settings.model_fields, f"no setting {name}"
    elif command == "train":
        fields = Recipe.model_fields
        for part in name.split("."):
            assert part in fields, f"no value {name} in a recipe"
            fields = getattr(fields[part].annotation, "model_fields", {})


def check_engine_arguments(words: Iterable[str]) -> None:
    """vLLM has the arguments that `--engine-arg` names."""
    for option, value in itertools.pairwise(words):
        name = value.partition("=")[0]
        assert option != "--engine-arg" or name in (vllm_options() or {name}), (
            f"vLLM has no engine argument {name}"
        )


def without_vllm_options(words: list[str], known: set[str]) -> list[str]:
    """The words of `capo serve` without options of vLLM and their values, which it passes on."""
    kept: list[str] = []
    rest = iter(words)
    for word in rest:
        option, has_value, _ = word.partition("=")
        name = option.removeprefix("--").removeprefix("no-").replace("-", "_")
        is_long = option.startswith("--") and option not in known
        if word in VLLM_SHORT:
            next(rest)
        elif is_long and name in (vllm_options() or {name}):
            is_flag = "enable" in name or option.startswith("--no-")
            if not has_value and not is_flag:
                next(rest)
        else:
            kept.append(word)
    return kept


@cache
def vllm_options() -> frozenset[str]:
    """The fields of vLLM's `AsyncEngineArgs`; none where vLLM is not installed.

    Read from the source, because importing vLLM takes seconds.
    """
    spec = find_spec("vllm")
    if spec is None or spec.origin is None:
        return frozenset()
    source = (Path(spec.origin).parent / "engine" / "arg_utils.py").read_text("utf-8")
    classes = [node for node in ast.parse(source).body if isinstance(node, ast.ClassDef)]
    return frozenset(
        line.target.id
        for each in classes
        if each.name in ("EngineArgs", "AsyncEngineArgs")
        for line in each.body
        if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name)
    )
