"""The judge profile that the settings name."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from capo_service.engine.local_models import own_template
from capo_service.judges.loading import DEFAULT, load_profile, profile_for
from capo_service.judges.profile import JudgeProfile
from capo_service.settings import Settings
from capo_service.settings.fields import STORY_JUDGES

_PAPER = "paper"


def judge_profile(settings: Settings) -> JudgeProfile:
    """The profile, with the prompt in a file, else in the judge's folder, else its own.

    Its style is the one in effect: of the settings, else of the built-in judge, else its own.

    Raises:
        ValueError: there is no such profile, a file of it is missing or not valid, or settings
            contradict each other.
    """
    template = settings.template
    if template is None and settings.engine != "symbolic":
        template = own_template(settings.model)
    return profile_in(settings, template)


def profile_in(settings: Settings, template: Path | None = None) -> JudgeProfile:
    """As `judge_profile`, with the prompt in a file, else its own."""
    profile = load_profile(_name(settings), template)
    of_built_in = settings.engine != "symbolic" and settings.model in STORY_JUDGES
    if of_built_in or "critique_style" in settings.model_fields_set:
        profile = replace(profile, style=settings.critique_style)
    return profile


def _name(settings: Settings) -> str:
    """The profile's name or folder: by `profile`, by `critique_format`, else by the model."""
    form = settings.critique_format if "critique_format" in settings.model_fields_set else None
    if settings.profile is not None:
        if form is not None and (form == "tag") != (settings.profile == _PAPER):
            raise ValueError(
                f"critique_format={form} contradicts profile={settings.profile}: the profile has "
                "the format, so leave out critique_format (tag is profile paper)"
            )
        return settings.profile
    if form is not None:
        return _PAPER if form == "tag" else DEFAULT
    return profile_for(settings.model) if settings.engine != "symbolic" else DEFAULT
