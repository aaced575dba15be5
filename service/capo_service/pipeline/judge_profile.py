"""The judge profile that the settings name."""

from __future__ import annotations

from capo_service.engine.local_models import own_template
from capo_service.judges.loading import load_profile
from capo_service.judges.profile import JudgeProfile
from capo_service.settings import Settings


def judge_profile(settings: Settings) -> JudgeProfile:
    """The profile, with the prompt in a file, else in the judge's folder, else its own.

    Raises:
        ValueError: a file of the profile is missing or not valid.
    """
    template = settings.template
    if template is None and settings.engine != "symbolic":
        template = own_template(settings.model)
    name = "paper" if settings.critique_format == "tag" else "default"
    return load_profile(name, template)
