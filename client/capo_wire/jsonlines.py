"""JSON lines as other programs write them: split at `\\n` only, in any Unicode encoding.

A JSON string may contain U+2028, U+2029 and U+0085 unescaped, where `str.splitlines` would split
the record. Excel and PowerShell write a byte-order mark, or UTF-16; in concatenated files a mark
may precede a later line too.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path


def read_lines(path: Path, errors: str = "strict") -> Iterator[str]:
    """The lines of a file, each with its end, without byte-order marks.

    Args:
        path: a file or a pipe, in UTF-8, UTF-16 or UTF-32.
        errors: how undecodable bytes are handled, as in `open`.

    Raises:
        OSError: it cannot be read.
        UnicodeDecodeError: bytes are undecodable, and `errors` is `strict`.
    """
    with path.open("rb") as file:
        encoding = json.detect_encoding(file.peek(4)[:4])
        with io.TextIOWrapper(file, encoding=encoding, errors=errors, newline="\n") as text:
            for line in text:
                yield line.removeprefix("\ufeff")


def line_id(number: int) -> str:
    """The id of a rollout without one: its line number from 1, with a prefix.

    Ids in files are often numbers; the prefix keeps the two kinds apart.
    """
    return f"line-{number}"


def is_own_output(path: Path) -> bool:
    """Whether a path is this process's standard output or error, such as `/dev/stdout`."""
    found = path.stat()
    for stream in (1, 2):
        with suppress(OSError):  # closed
            if os.path.samestat(found, os.fstat(stream)):
                return True
    return False
