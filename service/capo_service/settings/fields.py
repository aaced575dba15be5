"""The settings: all groups together, and where their values come from."""

from __future__ import annotations

from pydantic import BaseModel, model_validator
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from capo_service.settings import checks, environment
from capo_service.settings.judge import (
    DEMO_JUDGE,
    STORY_JUDGES,
    TESTBED_JUDGES,
    THINKING_JUDGE,
    JudgeSettings,
    UpstreamSettings,
)
from capo_service.settings.results import CacheSettings, HackingSettings, VerifierSettings
from capo_service.settings.server import (
    AccessSettings,
    LimitSettings,
    LogSettings,
    ServerSettings,
)

__all__ = ["DEMO_JUDGE", "GROUPS", "STORY_JUDGES", "TESTBED_JUDGES", "THINKING_JUDGE", "Settings"]

# In the order in which they are shown; the docstring of each is its title.
GROUPS: tuple[type[BaseModel], ...] = (
    JudgeSettings,
    UpstreamSettings,
    ServerSettings,
    AccessSettings,
    LogSettings,
    LimitSettings,
    HackingSettings,
    CacheSettings,
    VerifierSettings,
)


class Settings(
    JudgeSettings,
    UpstreamSettings,
    ServerSettings,
    AccessSettings,
    LogSettings,
    LimitSettings,
    HackingSettings,
    CacheSettings,
    VerifierSettings,
    BaseSettings,
):
    """Settings of `capo serve`. Each is also a variable: `max_steps` is `CAPO_MAX_STEPS`."""

    model_config = SettingsConfigDict(env_prefix=environment.PREFIX, extra="forbid", frozen=True)

    @model_validator(mode="after")
    def _check_consistency(self) -> Settings:
        for check in checks.ALL:
            check(self)
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments first, then variables, then the TOML file."""
        assert isinstance(env_settings, EnvSettingsSource)  # noqa: S101  # for the type checker
        env_settings.env_vars = {
            name: value
            for name, value in env_settings.env_vars.items()
            if not environment.is_service_link(name.upper(), value)
        }
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls)
