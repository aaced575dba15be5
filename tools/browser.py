"""Find a Chromium for the inspector's tests, or install one; print its path.

    .venv/bin/python tools/browser.py

Looked for: CAPO_BROWSER, Playwright's own, chromium or google-chrome on the PATH. Else Playwright
is asked to fetch its own, and where that cannot be, and root asks, Debian's package is installed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

# Without a sandbox, a GPU, /dev/shm, or anything that calls home: as in a container.
FLAGS = [
    "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def find() -> str | None:
    """The path of a Chromium, if there is one."""
    if named := os.environ.get("CAPO_BROWSER"):
        return named
    with sync_playwright() as playwright:
        own = playwright.chromium.executable_path
    if Path(own).exists():
        return own
    return next((found for name in NAMES if (found := shutil.which(name))), None)


def install() -> None:
    """Fetch one. What it says goes to standard error."""
    tries = [[sys.executable, "-m", "playwright", "install", "chromium"]]
    if os.name == "posix" and os.geteuid() == 0 and shutil.which("apt-get"):
        tries += [["apt-get", "update", "-q"], ["apt-get", "install", "-y", "-q", "chromium"]]
    for command in tries:
        print(f"browser: {' '.join(command[-3:])}", file=sys.stderr, flush=True)
        done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                              timeout=600, check=False)  # fmt: skip
        if done.returncode == 0 and find():
            return


def main() -> None:
    if find() is None:
        install()
    path = find()
    if path is None:
        sys.exit(
            "browser: no Chromium is here and none could be installed: install one, or name it in "
            "CAPO_BROWSER"
        )
    print(path)


if __name__ == "__main__":
    main()
