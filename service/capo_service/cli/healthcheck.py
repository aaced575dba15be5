"""For a container's health check: exit 0 when the service of this machine serves requests.

The port may come from an option, a variable or a file of settings, which the check does not see. So
`capo serve` notes where it listens in the folder for temporary files, and the check reads that. It
needs the standard library only: it runs every few seconds beside a judge.
"""

from __future__ import annotations

import json
import os
import socket
import ssl
import sys
import tempfile
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

_SECONDS = 4.0


@dataclass(frozen=True, slots=True)
class Place:
    """Where a service listens. `certificate`: callers must show one, so the check cannot ask."""

    url: str
    certificate: bool = False


def note(place: Place) -> Path:
    """Note where this process listens; delete the file when it ends.

    Raises:
        OSError: the folder for temporary files cannot be written to.
    """
    folder = _folder()
    folder.mkdir(mode=0o700, exist_ok=True)
    if not _is_ours(folder):
        raise PermissionError(f"{folder} belongs to another user")
    path = folder / f"{os.getpid()}.json"
    new = path.with_suffix(".new")
    new.write_text(json.dumps({"url": place.url, "certificate": place.certificate}))
    return new.replace(path)


def find() -> Place:
    """Where the service listens that was started last; without a note, by CAPO_PORT."""
    folder = _folder()
    if folder.is_dir() and _is_ours(folder):
        for path in sorted(folder.glob("*.json"), key=_age):
            try:
                os.kill(int(path.stem), 0)
                return Place(**json.loads(path.read_text()))
            except (OSError, ValueError, TypeError):  # its service has ended
                continue
    scheme = "https" if os.environ.get("CAPO_TLS_CERT") else "http"
    return Place(
        f"{scheme}://127.0.0.1:{os.environ.get('CAPO_PORT', '8000')}",
        bool(os.environ.get("CAPO_TLS_CLIENT_CA")),
    )


def why_not_healthy(place: Place) -> str | None:
    """None if the service there is ready; else the reason.

    A service that asks callers for a certificate is only asked to accept a connection.
    """
    parts = urlsplit(place.url)
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # it is this machine
    url = f"{place.url}/health/ready"
    try:
        if place.certificate:
            socket.create_connection((parts.hostname, parts.port or 443), _SECONDS).close()
            return None
        with urllib.request.urlopen(url, timeout=_SECONDS, context=context):  # noqa: S310  # ours
            return None
    except urllib.error.HTTPError as error:
        return error.read().decode(errors="replace")
    except OSError as error:
        return f"{url}: {error}"


def main() -> int:
    """0 if ready; 1, with the reason on standard error, if not."""
    reason = why_not_healthy(find())
    if reason is not None:
        print(reason, file=sys.stderr)
        return 1
    return 0


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


if __name__ == "__main__":
    sys.exit(main())
