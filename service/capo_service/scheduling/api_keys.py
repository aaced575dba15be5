"""API keys with roles and quotas; only their hashes are stored, and the file is reloaded live.

A key is 256 random bits, so a plain SHA-256 of it reveals nothing (slow hashes are for passwords
that people choose). `capo key NAME` makes one.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from capo_service.scheduling.quota import Quota
from capo_wire.validation import first_error

Role = Literal["credit", "info", "metrics"]
ANONYMOUS = "anonymous"


class KeyFileError(ValueError):
    """The key file cannot be used; the message names the file and the reason."""


class ApiKey(BaseModel):
    """An entry of the key file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")]
    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
    roles: frozenset[Role] = frozenset({"credit", "info"})
    max_queued: int | None = Field(None, ge=1)
    rollouts_per_minute: int | None = Field(None, ge=1)


class _KeyFile(BaseModel):
    model_config = ConfigDict(extra="forbid")

    key: list[ApiKey]


class KeyRing:
    """All keys of a service: those of the settings, and those of the key file.

    Args:
        plain: keys of the settings, in plain text.
        path: the key file.

    Raises:
        KeyFileError: the file does not exist or cannot be used.
    """

    def __init__(self, plain: Sequence[str] = (), path: Path | None = None) -> None:
        self._fixed = [
            ApiKey(name=f"key-{number}", sha256=digest(value))
            for number, value in enumerate(plain, 1)
        ]
        self._path = path
        self._quotas: dict[str, Quota] = {}
        self._anonymous = ApiKey(
            name=ANONYMOUS, sha256="0" * 64, roles=frozenset({"credit", "info", "metrics"})
        )
        self._keys: list[ApiKey] = []
        self._stamp: tuple[int, ...] | None = None
        self.reload()

    @property
    def open(self) -> bool:
        """Whether no key is needed: none is set, and there is no key file."""
        return not self._fixed and self._path is None

    def reload(self) -> int:
        """Read the key file again; the number of keys. On an error the previous keys stay.

        Raises:
            KeyFileError: the file does not exist or cannot be used.
        """
        keys = list(self._fixed)
        if self._path is not None:
            self._stamp = _stamp(self._path)  # before reading: a bad file is not read twice
            keys += _read(self._path)
        names = [key.name for key in keys]
        if duplicates := sorted({name for name in names if names.count(name) > 1}):
            raise KeyFileError(f"{self._path}: more than one key is named {', '.join(duplicates)}")
        self._keys = keys
        return len(keys)

    def changed(self) -> bool:
        """Whether the key file has changed since it was last read."""
        return self._path is not None and _stamp(self._path) != self._stamp

    def find(self, authorization: str | None) -> ApiKey | None:
        """The key of an Authorization header; None if it is missing or unknown.

        Every key is compared, each in constant time.
        """
        if self.open:
            return self._anonymous
        scheme, _, value = (authorization or "").partition(" ")
        sent = digest(value.strip())
        matches = [key for key in self._keys if hmac.compare_digest(sent, key.sha256)]
        return matches[0] if matches and scheme.lower() == "bearer" else None

    def quota(self, key: ApiKey) -> Quota:
        """The key's usage, which outlives a reload."""
        return self._quotas.setdefault(key.name, Quota())


def digest(value: str) -> str:
    """A key's hash, as the key file holds it: 64 hexadecimal digits."""
    return hashlib.sha256(value.encode()).hexdigest()


def make_key(name: str) -> tuple[str, str]:
    """A new key, and its entry for the key file.

    Raises:
        KeyFileError: the name is not valid.
    """
    value = f"capo_{secrets.token_urlsafe(32)}"
    try:
        ApiKey(name=name, sha256=digest(value))
    except ValidationError:
        raise KeyFileError(
            f"{name!r} is not a valid key name: use letters, digits, '.', '_' and '-', at most 63"
        ) from None
    entry = f'[[key]]\nname = "{name}"\nsha256 = "{digest(value)}"\nroles = ["credit", "info"]\n'
    return value, entry


def _stamp(path: Path) -> tuple[int, ...] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size


def _read(path: Path) -> list[ApiKey]:
    try:
        return _KeyFile.model_validate(tomllib.loads(path.read_text(encoding="utf-8"))).key
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise KeyFileError(f"the key file {path} cannot be read: {error}") from None
    except ValidationError as error:
        raise KeyFileError(f"the key file {path}: {first_error(error)[1]}") from None
