"""The judge's prompt template: a file, the one in the judge's folder, or the built-in one."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from capo_service.core.prompt import PromptTemplate
from capo_service.engine.local_models import own_template


def load_template(path: Path | None, model: str | None) -> PromptTemplate:
    """The template in a file; else the one in the judge's folder; else the built-in one.

    Args:
        path: the file, if one is set.
        model: the judge; None if the engine has no model.
    """
    if path is None and model is not None:
        path = own_template(model)
    if path is not None:
        return PromptTemplate(path.read_text(encoding="utf-8"), str(path))
    built_in = resources.files("capo_service.pipeline") / "judge.j2"
    return PromptTemplate(built_in.read_text(encoding="utf-8"), "the built-in template")
