"""Where a service listens, in a file that the health check of its container reads.

The port may come from an option, a variable or a settings file, which the check does not see. So
`capo serve` writes its address to a file in the folder for temporary files. Only the standard
library is imported, because the check runs every few seconds next to a judge.
"""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class ListenAddress:
    """Where a service listens. `certificate`: it requires client certificates."""

    url: str
    certificate: bool = False


def write(address: ListenAddress) -> Path:
    """Write where this process listens; the caller deletes the file at its end.

    Raises:
        OSError: the folder for temporary files cannot be written to.
    """
    folder = _folder()
    folder.mkdir(mode=0o700, exist_ok=True)
    if not _is_ours(folder):
        raise PermissionError(f"{folder} belongs to another user")
    path = folder / f"{os.getpid()}.json"
    new = path.with_suffix(".new")
    new.write_text(json.dumps({"url": address.url, "certificate": address.certificate}))
    return new.replace(path)


def find() -> ListenAddress:
    """The address of the service that was started last; without a file, that of CAPO_PORT."""
    folder = _folder()
    if folder.is_dir() and _is_ours(folder):
        for path in sorted(folder.glob("*.json"), key=_age):
            try:
                os.kill(int(path.stem), 0)
                return ListenAddress(**json.loads(path.read_text()))
            except (OSError, ValueError, TypeError):  # its service has ended
                continue
    scheme = "https" if os.environ.get("CAPO_TLS_CERT") else "http"
    return ListenAddress(
        f"{scheme}://127.0.0.1:{os.environ.get('CAPO_PORT', '8000')}",
        bool(os.environ.get("CAPO_TLS_CLIENT_CA")),
    )


def _folder() -> Path:
    return Path(tempfile.gettempdir()) / f"capo-{os.getuid()}"


def _is_ours(folder: Path) -> bool:
    found = folder.lstat()
    return found.st_uid == os.getuid() and not folder.is_symlink()


def _age(path: Path) -> float:
    try:
        return -path.stat().st_mtime
    except OSError:
        return 0.0
