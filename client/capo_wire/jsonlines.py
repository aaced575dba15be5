"""JSON lines as other programs write them: cut at `\\n` alone, in any encoding of Unicode.

A JSON string may hold U+2028, U+2029 and U+0085 as they are, and `str.splitlines` would cut the
record there. Excel and PowerShell put a byte-order mark in front, or write UTF-16; where such files
are joined, the mark is before a later line too.
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
        errors: what is done about bytes that are not of the encoding, as in `open`.

    Raises:
        OSError: it cannot be read.
        UnicodeDecodeError: it is not of the encoding, and `errors` is `strict`.
    """
    with path.open("rb") as file:
        encoding = json.detect_encoding(file.peek(4)[:4])
        with io.TextIOWrapper(file, encoding=encoding, errors=errors, newline="\n") as text:
            for line in text:
                yield line.removeprefix("\ufeff")


def line_id(number: int) -> str:
    """The id of a rollout that brings none, by its line from 1: no other line of the file has it.

    It is no plain number, since rollouts that bring an id are often numbered themselves.
    """
    return f"line-{number}"


def is_own_output(path: Path) -> bool:
    """Whether a path is this process's standard output or error, as `/dev/stdout` is."""
    found = path.stat()
    for stream in (1, 2):
        with suppress(OSError):  # closed
            if os.path.samestat(found, os.fstat(stream)):
                return True
    return False
