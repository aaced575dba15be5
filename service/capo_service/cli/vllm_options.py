"""vLLM's own options of `capo serve`: told apart from ours, and parsed by vLLM.

`capo serve MODEL --tensor-parallel-size 4 -dp 2 --enforce-eager` works as with `vllm serve`: types,
short names, JSON values and choices are vLLM's. vLLM is imported only if there is such an option.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
from collections.abc import Callable, Sequence
from dataclasses import is_dataclass
from difflib import get_close_matches
from functools import cache
from textwrap import shorten
from typing import Any, NoReturn

import typer
from typer.core import TyperCommand

from capo_service.settings import Settings

# Typer publishes click's BadParameter, and not its base class.
_UsageError: type[Any] = typer.BadParameter.__mro__[1]
_NOT_GIVEN = object()  # a default that vLLM does not have
_LONGEST = 300  # characters of vLLM's errors; those of nested values list every backend
_MODEL = "MODEL"  # the positional argument, which vLLM's options may precede
# Options of `vllm serve` that have no meaning here, and what to do instead.
_INSTEAD = {
    "api-server-count": "start several services, and give clients all their URLs",
    "allowed-origins": "use --set allow_origins=ORIGIN",
    "chat-template": "the judge's own chat template is used; --set chat_template_kwargs='{...}' "
    "sets its variables, and --template replaces our prompt",
    "default-chat-template-kwargs": "use --set chat_template_kwargs='{...}'",
    "headless": "start the other nodes with Ray, and use --distributed-executor-backend ray",
    "reasoning-parser": "it has no effect here, because the service reads critiques as they are "
    "generated: leave it out (for judges that think see docs/judges.md)",
    "served-model-name": "clients do not name the judge, which is called MODEL: leave it out",
    "ssl-ca-certs": "use --set tls_client_ca=FILE",
    "uvicorn-log-level": "use --log-level",
}
_NO_VLLM = (
    "no such option: {}. vLLM's options are accepted where vLLM is installed: pip install "
    "'capo-credit[service,gpu]' (NVIDIA), or 'capo-credit[service,cpu]'"
)


class ServeCommand(TyperCommand):
    """A command that leaves options that are not its own to vLLM, in `ctx.args`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse our own arguments."""
        takes_value = {
            name: not getattr(param, "is_flag", False)
            for param in self.get_params(ctx)
            for name in (*param.opts, *param.secondary_opts)
            if name.startswith("-")
        }
        ours, others = split(args, takes_value)
        try:
            super().parse_args(ctx, ours)
        except _UsageError as error:
            error.ctx = error.ctx or ctx  # the parser does not know the command
            raise
        ctx.args = others
        return others


def split(args: Sequence[str], takes_value: dict[str, bool]) -> tuple[list[str], list[str]]:
    """Our own arguments, and those for vLLM.

    A word after an option of vLLM may be its value or MODEL; vLLM's parser knows.

    Args:
        args: the command line after `capo serve`.
        takes_value: our options, and whether a value follows.
    """
    ours: list[str] = []
    others: list[str] = []
    words = iter(args)
    for word in words:
        if word == "--":
            ours += [word, *words]
            break
        name, equals, value = word.partition("=")
        if name.startswith("--"):
            name = name.replace("_", "-")
        if name in takes_value:
            ours.append(name + equals + value)
            if takes_value[name] and not equals:
                ours += [each for each in [next(words, None)] if each is not None]
        elif others or (word.startswith("-") and word != "-"):
            others.append(word)
        else:
            ours.append(word)
    return ours, others


def parse(args: Sequence[str]) -> tuple[str | None, dict[str, Any]]:
    """MODEL, if it is among the arguments, and the engine arguments that were given.

    Raises:
        ValueError: vLLM is not installed, or does not accept them; the message says what to change.
    """
    names = [word.partition("=")[0] for word in args if word.startswith("-")]
    for name in names:
        _refuse(name)
    if importlib.util.find_spec("vllm") is None:
        raise ValueError(_NO_VLLM.format(names[0]))
    try:
        parser = _parser()
    except ImportError as error:
        raise ValueError(
            f"vLLM cannot be imported ({error}), which has to read {names[0]}"
        ) from error
    given = {
        name: value
        for name, value in vars(parser.parse_args(list(args))).items()
        if value is not _NOT_GIVEN
    }
    return given.pop(_MODEL, None), given


def _refuse(name: str) -> None:
    """Refuse an option that means something else here, before vLLM is imported."""
    option = name.lstrip("-").replace("_", "-")
    if name.startswith("--") and (advice := _INSTEAD.get(option)):
        raise ValueError(f"{name}: {advice}")
    setting = option.replace("-", "_")
    if name.startswith("--") and setting in Settings.model_fields:
        raise ValueError(f"no such option: {name}. It is a setting: --set {setting}=VALUE")


@cache
def _parser() -> argparse.ArgumentParser:
    """vLLM's parser of engine arguments, without defaults."""
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    class Parser(FlexibleArgumentParser):  # type: ignore[misc]  # vLLM has no types
        def error(self, message: str) -> NoReturn:
            raise ValueError(_explain(message, self._option_string_actions))

    parser: argparse.ArgumentParser = Parser(prog="capo serve", add_help=False)
    AsyncEngineArgs.add_cli_args(parser)
    for action in parser._actions:
        if callable(action.type):
            action.type = _plain(action.type)
    parser.set_defaults(**{action.dest: _NOT_GIVEN for action in parser._actions})
    parser.add_argument(_MODEL, nargs="?", default=argparse.SUPPRESS)
    return parser


def _plain(parse_value: Callable[[str], Any]) -> Callable[[str], Any]:
    """Checks a value as vLLM does; a JSON object stays one, and becomes no configuration class."""

    def parsed(text: str) -> Any:
        value = parse_value(text)
        if not is_dataclass(value):
            return value
        try:
            return json.loads(text)
        except ValueError:  # with numbers such as 80m, which vLLM reads
            return value

    parsed.__name__ = getattr(parse_value, "__name__", "value")  # argparse's errors name it
    return parsed


def _explain(message: str, known: Sequence[str]) -> str:
    """argparse's error in one line, with the nearest option if one does not exist."""
    if not message.startswith("unrecognized arguments:"):
        return shorten(message, _LONGEST, placeholder=" ...")
    wrong = message.removeprefix("unrecognized arguments:").split()
    option = next((word.partition("=")[0] for word in wrong if word.startswith("-")), None)
    if option is None:
        return f"unexpected argument: {wrong[0]}"
    ours = [f"--{name.replace('_', '-')}" for name in Settings.model_fields]
    close = get_close_matches(option.replace("_", "-"), [*known, *ours], n=1)
    hint = f" (did you mean {close[0]}?)" if close else ""
    return f"no such option: {option}{hint}; see `capo serve --help` and `vllm serve --help=all`"
