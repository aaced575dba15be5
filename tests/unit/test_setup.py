"""Set-up names the fix for what is missing; the pinned lists hold no address."""

from __future__ import annotations

import importlib.util
import platform
import re
import sys
import types
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def setup() -> types.ModuleType:
    spec = importlib.util.spec_from_file_location("setup_tool", ROOT / "tools" / "setup.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_processor_without_avx2(setup: types.ModuleType, tmp_path: Path) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("flags : fpu sse4_2 avx\n")
    with pytest.raises(SystemExit, match=r"no AVX2.*Fix: .*--engine openai"):
        setup.check_machine(cpuinfo)
    cpuinfo.write_text("flags : fpu avx avx2 bmi1\n")
    setup.check_machine(cpuinfo)


def test_a_python_or_a_machine_that_is_not_supported(
    setup: types.ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(sys, "version_info", (3, 10, 1))
        with pytest.raises(SystemExit, match=r"Python 3\.10 .*Fix: make setup PYTHON="):
            setup.check_machine()
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    with pytest.raises(SystemExit, match="aarch64"):
        setup.check_machine()


def test_torch_that_the_index_lacks_is_looked_for_at_pytorch(
    setup: types.ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls: list[tuple[str, ...]] = []

    def pip(*arguments: str, check: bool = True) -> bool:
        calls.append(arguments)
        return "--index-url" in arguments

    monkeypatch.setattr(setup, "pip", pip)
    setup.install_torch()
    assert len(calls) == 2 and calls[1][0].startswith("torch==")
    assert "trying PyTorch's CPU index" in capsys.readouterr().out
    monkeypatch.setattr(setup, "pip", lambda *arguments, check=True: False)
    with pytest.raises(SystemExit, match=r"Fix: name an index .*TORCH_INDEX_URL"):
        setup.install_torch()


@pytest.mark.parametrize("name", ["cpu.txt", "dev.txt"])
def test_pinned_lists_hold_pins_and_nothing_else(name: str) -> None:
    lines = (ROOT / "requirements" / name).read_text().splitlines()
    pins = [line for line in lines if not line.startswith("#")]
    assert len(pins) > 10
    for pin in pins:
        assert re.fullmatch(r"[a-z0-9-]+==[0-9][\w.+!]*", pin), pin
