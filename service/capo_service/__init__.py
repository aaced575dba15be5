"""Reward service for reinforcement learning: a generative process reward model behind HTTP."""

from importlib import metadata


def version() -> str:
    """The installed version of this distribution."""
    return metadata.version("capo-credit")
