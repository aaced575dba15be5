"""Settings of the service: command line, then CAPO_* variables, then a TOML file."""

from capo_service.settings.fields import Settings
from capo_service.settings.loading import SettingsError, load

__all__ = ["Settings", "SettingsError", "load"]
