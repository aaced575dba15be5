"""A container's health check: exit 0 when the service of this machine serves requests.

It imports only the standard library, because it runs every few seconds beside a judge.
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
    """None if the service there is ready; else the reason.

    Of a service that requires client certificates only a TCP connection is tried.
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
    """The exit code: 0 if ready; 1, with the reason on standard error, if not."""
    reason = why_not_healthy(find())
    if reason is not None:
        print(reason, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
