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
HASHES = r"( \\\n    --hash=sha256:[0-9a-f]{64})+"


@pytest.fixture
def setup() -> types.ModuleType:
    spec = importlib.util.spec_from_file_location("setup_tool", ROOT / "tools" / "setup.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def python_of_the_lists(setup: types.ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "version_info", (*setup.LISTS_ARE_FOR, 9))


@pytest.mark.usefixtures("python_of_the_lists")
def test_a_processor_without_avx2(setup: types.ModuleType, tmp_path: Path) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("flags : fpu sse4_2 avx\n")
    with pytest.raises(SystemExit, match=r"no AVX2.*Fix: .*--engine openai"):
        setup.check_machine(cpuinfo)
    cpuinfo.write_text("flags : fpu avx avx2 bmi1\n")
    setup.check_machine(cpuinfo)


@pytest.mark.usefixtures("python_of_the_lists")
def test_a_python_or_a_machine_that_is_not_supported(
    setup: types.ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        for version in ((3, 10, 1), (3, 11, 4), (3, 12, 1)):
            patch.setattr(sys, "version_info", version)
            shown = ".".join(map(str, version)).replace(".", r"\.")
            with pytest.raises(SystemExit, match=rf"Python {shown}, .*Fix: make setup PYTHON="):
                setup.check_machine()
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    with pytest.raises(SystemExit, match="aarch64"):
        setup.check_machine()


def test_torch_that_the_index_lacks_is_looked_for_at_pytorch(
    setup: types.ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    """With an environment whose pip writes down what it is asked, and finds what we say."""
    asked, python = tmp_path / "asked", tmp_path / "bin" / "python"
    python.parent.mkdir()
    monkeypatch.setattr(setup, "VENV", tmp_path)
    options = "-m pip install --no-deps --quiet --disable-pip-version-check"
    first = f"{options} -r {tmp_path / 'torch.txt'}"
    second = f"{first} --index-url {setup.TORCH_INDEX_URL}"

    def install(has_it: str) -> list[str]:
        python.write_text(
            f'#!/bin/sh\necho "$*" >> {asked}\ncase "$*" in {has_it}) ;; *) exit 1; esac\n'
        )
        python.chmod(0o755)
        asked.write_text("")
        setup.install_torch()
        return asked.read_text().splitlines()

    assert install("*torch.txt*") == [first]
    [pin] = re.findall(r"^torch==\S+", (ROOT / "requirements" / "cpu.txt").read_text(), re.M)
    assert re.fullmatch(rf"{re.escape(pin)}{HASHES}\n", (tmp_path / "torch.txt").read_text())
    assert "trying" not in capsys.readouterr().out
    assert install("*--index-url*") == [first, second]
    assert "trying PyTorch's CPU index" in capsys.readouterr().out
    with pytest.raises(SystemExit, match=r"Fix: name an index .*TORCH_INDEX_URL"):
        install("nothing")
    assert asked.read_text().splitlines() == [first, second]


def test_what_pip_cannot_install_stops_the_setup_with_its_words(
    setup: types.ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    python.write_text("#!/bin/sh\necho 'no such thing' >&2\nexit 1\n")
    python.chmod(0o755)
    monkeypatch.setattr(setup, "VENV", tmp_path)
    with pytest.raises(SystemExit, match="pip could not install a-package"):
        setup.pip("a-package")
    assert "no such thing" in capsys.readouterr().err


LISTS = sorted((ROOT / "requirements").rglob("*.txt"))


@pytest.mark.parametrize("path", LISTS, ids=[path.stem for path in LISTS])
def test_pinned_lists_hold_pins_with_hashes_and_nothing_else(path: Path) -> None:
    text = re.sub(r"^#.*\n", "", path.read_text(), flags=re.M)
    entries = re.split(r"\n(?=\S)", text.rstrip())
    assert len(entries) > 10
    for entry in entries:
        assert re.fullmatch(rf"[a-z0-9-]+==[0-9][\w.+!]*{HASHES}", entry), entry


def test_no_pinned_list_holds_what_is_excluded() -> None:
    excluded = set(re.findall(r"^\w\S*", (ROOT / "requirements/excluded.in").read_text(), re.M))
    assert {"torchvision", "llama-cpp-python"} <= excluded
    for path in LISTS:
        assert not excluded & set(re.findall(r"^([a-z0-9-]+)==", path.read_text(), re.M)), path
