"""Exceptions of the trainer: one base, and a class for each kind of error that a user can fix.

Each is made from a message alone, so that it survives pickling between processes.
"""

from __future__ import annotations


class TrainerError(Exception):
    """Base of all exceptions of the trainer; the message says what to change."""


class RecipeError(TrainerError, ValueError):
    """The recipe, or a value in it, cannot be used."""


class PromptFileError(TrainerError, ValueError):
    """A prompt file cannot be read, is empty, or has a bad line, which the message names."""


class MissingPackageError(TrainerError, ImportError):
    """The recipe needs a package that is not installed."""


class RewardServiceError(TrainerError, RuntimeError):
    """The reward service cannot be reached, is not ready, or is of another version."""


class TokenizerNotServedError(RewardServiceError):
    """The reward service does not serve the policy's tokenizer."""


class SamplingError(TrainerError, RuntimeError):
    """The sampling server cannot be used."""


class TrainingStopped(TrainerError, RuntimeError):
    """Training cannot continue; the last checkpoint is valid."""
