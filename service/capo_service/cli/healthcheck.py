"""Health check of a container: exits with 0 if the service on this machine is ready.

It imports only the standard library, because it runs every few seconds next to a judge.
"""

from __future__ import annotations

import socket
import ssl
import sys
import urllib.error
import urllib.request
from urllib.parse import urlsplit

from capo_service.api.listen_address import ListenAddress, find

_SECONDS = 4.0


def why_not_healthy(address: ListenAddress) -> str | None:
    """Why the service is not ready; None if it is.

    If the service requires client certificates, only a TCP connection is tried.
    """
    parts = urlsplit(address.url)
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # it is this machine
    url = f"{address.url}/health/ready"
    try:
        if address.certificate:
            socket.create_connection((parts.hostname, parts.port or 443), _SECONDS).close()
            return None
        with urllib.request.urlopen(url, timeout=_SECONDS, context=context):  # noqa: S310  # ours
            return None
    except urllib.error.HTTPError as error:
        return error.read().decode(errors="replace")
    except OSError as error:
        return f"{url}: {error}"


def main() -> int:
    """Print why the service is not ready, if so; the exit code."""
    reason = why_not_healthy(find())
    if reason is not None:
        print(reason, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
