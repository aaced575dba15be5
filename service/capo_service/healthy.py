"""For a container's health check: exit 0 when the service of this machine serves requests."""

from __future__ import annotations

import os
import ssl
import sys
import urllib.error
import urllib.request


def main() -> int:
    """0 if ready; 1, with the reason on standard error, if not."""
    port = os.environ.get("CAPO_PORT", "8000")
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # it is this machine
    reason = "no answer"
    for scheme in ("http", "https"):
        url = f"{scheme}://127.0.0.1:{port}/health/ready"
        try:
            with urllib.request.urlopen(url, timeout=4, context=context):  # noqa: S310  # ours
                return 0
        except urllib.error.HTTPError as error:
            print(error.read().decode(errors="replace"), file=sys.stderr)
            return 1
        except OSError as error:
            reason = str(error)
    print(reason, file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
