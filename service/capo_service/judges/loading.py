"""Loads profiles: those of the package, and folders of users."""

from __future__ import annotations

import tomllib
from functools import cache
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from capo_service.core.prompt import PromptTemplate
from capo_service.core.verdicts.base import Style
from capo_service.judges.profile import JudgeProfile, VerdictForm

DEFAULT = "default"
VALUES, PROMPT = "profile.toml", "prompt.j2"
_ROOM = "capo_service.judges"
_STYLES: tuple[Style, ...] = ("verdict", "brief", "full")


class _Values(BaseModel):
    """The keys of `profile.toml`."""

    model_config = ConfigDict(extra="forbid", strict=True)

    description: str = ""
    verdict: VerdictForm
    thinking_tokens: Annotated[int, Field(ge=0, le=1 << 20)] = 0
    temperature: Annotated[float, Field(ge=0, le=2)] = 0.7
    top_p: Annotated[float, Field(gt=0, le=1)] = 0.9
    style: Style = "brief"
    first_step: Annotated[int, Field(ge=0, le=1)] = 0
    models: list[Annotated[str, Field(min_length=1)]] = []


@cache
def shipped() -> tuple[str, ...]:
    """The names of the package's profiles."""
    rooms = resources.files(_ROOM).iterdir()
    return tuple(sorted(room.name for room in rooms if (room / VALUES).is_file()))


def profile_for(model: str) -> str:
    """The package's profile for a model, by its name; `default` if none is for it."""
    for name in shipped():
        if load_profile(name).is_for(model):
            return name
    return DEFAULT


def load_profile(name: str = DEFAULT, template: Path | None = None) -> JudgeProfile:
    """A profile of the package, or one in a folder.

    Args:
        name: its name, or the folder.
        template: a file that replaces its prompt.

    Raises:
        ValueError: there is no such profile, or a file of it is not valid; the message says what to
            change.
    """
    folder = _folder(name)
    values = _values(name, _text(name, folder / VALUES))
    if template is None:
        title, source = f"{PROMPT} of profile {name}", _text(name, folder / PROMPT)
    else:
        title, source = str(template), template.read_text(encoding="utf-8")
    prompt = PromptTemplate(source, title, values.first_step)
    profile = JudgeProfile(
        name=folder.name,
        template=prompt,
        **values.model_dump(exclude={"models"}),
        models=tuple(values.models),
    )
    _check_prompt(profile, title)
    return profile


def _folder(name: str) -> Traversable:
    if name in shipped():
        return resources.files(_ROOM) / name
    path = Path(name).expanduser().resolve()
    if path.is_dir():
        return path
    raise ValueError(
        f"there is no profile {name}: name one of {', '.join(shipped())}, or a folder with "
        f"{VALUES} and {PROMPT}"
    )


def _text(name: str, file: Traversable) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ValueError(
            f"profile {name} lacks {file.name}: a profile is a folder with {VALUES} and {PROMPT}"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{file.name} of profile {name} cannot be read: {error}") from error


def _values(name: str, text: str) -> _Values:
    try:
        return _Values.model_validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{VALUES} of profile {name} is not TOML: {error}") from None
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        what = first["msg"]
        if first["type"] == "extra_forbidden":
            what = f"there is no such key; keys are {', '.join(_Values.model_fields)}"
        elif first["type"] == "missing":
            what = "it is required: step_list, tag, first_error or boxed_steps"
        raise ValueError(f"{VALUES} of profile {name}, {key}: {what}") from None


def _check_prompt(profile: JudgeProfile, title: str) -> None:
    """Render the prompt in each way in which rollouts are."""
    for style in _STYLES:
        for thinking in (False, True):
            try:
                prompt = profile.template.render(
                    question="q",
                    steps=["s", "t"],
                    reference=None,
                    nonce="b" * 7,
                    style=style,
                    format=profile.format,
                    thinking=thinking,
                )
            except Exception as error:  # its own code may raise anything
                raise ValueError(f"{title} is not a valid template: {error}") from error
            shown = [text for text, trusted in prompt.user if not trusted]
            if not {"q", "s", "t"} <= set(shown):
                raise ValueError(f"{title}: its user block must show the question and every step")
