"""Which profile and which prompt a service uses."""

from __future__ import annotations

import tomllib
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path

from capo_service.core.prompt import PromptTemplate
from capo_service.judges.profile import JudgeProfile


def load_profile(name: str = "default", template: Path | None = None) -> JudgeProfile:
    """A profile of the package.

    Args:
        name: its name.
        template: a file that replaces its prompt.

    Raises:
        ValueError: there is no such profile, or a file of it is not valid.
    """
    folder: Traversable = resources.files("capo_service.judges") / name
    values = tomllib.loads((folder / "profile.toml").read_text("utf-8"))
    source = template or folder / "prompt.j2"
    title = f"the prompt of profile {name}" if template is None else str(template)
    prompt = PromptTemplate(source.read_text(encoding="utf-8"), title)
    return JudgeProfile(name, prompt, values["verdict"])
