"""Exit codes of all commands. `capo --help` and docs/commands.md show the same table."""

from __future__ import annotations

SUCCESS = 0
FAILURES = 1
USAGE = 2
UNAVAILABLE = 3
CANNOT_LOAD = 4
CANNOT_LISTEN = 5
INTERRUPTED = 130  # 128 and the number of SIGINT

MEANINGS = {
    SUCCESS: "success",
    FAILURES: "completed with failures",
    USAGE: "usage or configuration error",
    UNAVAILABLE: "the service is unreachable or not ready, or a timeout passed: run it again",
    CANNOT_LOAD: "`capo serve`: the judge cannot be loaded",
    CANNOT_LISTEN: "`capo serve`: cannot listen on this host and port",
    INTERRUPTED: "interrupted by Ctrl-C",
}
