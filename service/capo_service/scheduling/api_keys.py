"""Who may call: API keys with roles and quotas, known by their hashes only, reloaded while running.

A key is 256 random bits, so that a plain SHA-256 of it tells nothing (a slow hash is for secrets
that people think up). `capo key NAME` makes one.
"""

from __future__ import annotations

import hashlib
import hmac
import math
import secrets
import time
import tomllib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from capo_wire.validation import first_error

Role = Literal["credit", "info", "metrics"]
ANONYMOUS = "anonymous"
_ROUNDING = 1e-6  # rollouts; sums of seconds are not exact, and the wait told must be enough


class KeyFileError(ValueError):
    """The key file cannot be used; the message says where and why."""


class QuotaError(Exception):
    """A caller asks for more than its key allows now. `retry_after`: whole seconds."""

    def __init__(self, detail: str, retry_after: int) -> None:
        super().__init__(detail)
        self.retry_after = retry_after


class QuotaTooSmallError(Exception):
    """A request that its key never allows, however long the caller waits."""


class Key(BaseModel):
    """One key, as the key file tells it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")]
    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
    roles: frozenset[Role] = frozenset({"credit", "info"})
    max_queued: int | None = Field(None, ge=1)
    rollouts_per_minute: int | None = Field(None, ge=1)


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid")

    key: list[Key]


class Quota:
    """What one caller has in the queue, and what it may still send this minute."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.queued = 0
        self._clock = clock
        self._level: float | None = None  # rollouts that may be sent now; None: a full minute's
        self._at = clock()

    @contextmanager
    def hold(self, key: Key, rollouts: int, expected_wait: Callable[[int], int]) -> Iterator[None]:
        """Room for a request, until it is answered.

        Args:
            key: whose quota it is.
            rollouts: in the request.
            expected_wait: whole seconds until so many rollouts are answered.

        Raises:
            QuotaTooSmallError: it is more than the key ever allows.
            QuotaError: it is more than the key allows now.
        """
        self._check_size(key, rollouts)
        if key.max_queued is not None and (more := self.queued + rollouts - key.max_queued) > 0:
            raise QuotaError(
                f"the key {key.name} has {self.queued} rollouts unanswered and may have "
                f"{key.max_queued}",
                expected_wait(more),
            )
        self._take(key, rollouts)
        self.queued += rollouts
        try:
            yield
        finally:
            self.queued -= rollouts

    def _check_size(self, key: Key, rollouts: int) -> None:
        limits = ("max_queued", key.max_queued), ("rollouts_per_minute", key.rollouts_per_minute)
        for name, limit in limits:
            if limit is not None and rollouts > limit:
                raise QuotaTooSmallError(
                    f"the request has {rollouts} rollouts and the key {key.name} allows {limit} "
                    f"({name}); send fewer in one request"
                )

    def _take(self, key: Key, rollouts: int) -> None:
        """A bucket that holds a minute's rollouts and fills evenly."""
        full = key.rollouts_per_minute
        if full is None:
            return
        now = self._clock()
        level = full if self._level is None else self._level + (now - self._at) * full / 60
        self._level, self._at = min(float(full), level), now
        if self._level < rollouts - _ROUNDING:
            wait = (rollouts - self._level) * 60 / full
            raise QuotaError(
                f"the key {key.name} allows {full} rollouts a minute", max(1, math.ceil(wait))
            )
        self._level -= rollouts


class KeyRing:
    """All keys of a service: those of the settings, by hash, and those of the key file.

    Raises:
        KeyFileError: the file is not there or cannot be used.
    """

    def __init__(self, plain: Sequence[str] = (), path: Path | None = None) -> None:
        self._fixed = [
            Key(name=f"key-{number}", sha256=digest(value)) for number, value in enumerate(plain, 1)
        ]
        self._path = path
        self._quotas: dict[str, Quota] = {}
        self._anonymous = Key(
            name=ANONYMOUS, sha256="0" * 64, roles=frozenset({"credit", "info", "metrics"})
        )
        self._keys: list[Key] = []
        self._seen: tuple[int, ...] | None = None
        self.reload()

    @property
    def open(self) -> bool:
        """Whether callers need no key: none is set, and there is no key file."""
        return not self._fixed and self._path is None

    def reload(self) -> int:
        """Read the key file again; the number of keys. On an error the old keys stay.

        Raises:
            KeyFileError: the file is not there or cannot be used.
        """
        keys = list(self._fixed)
        if self._path is not None:
            self._seen = _stamp(self._path)  # a bad file is looked at once, not again and again
            keys += _read(self._path)
        names = [key.name for key in keys]
        if doubled := sorted({name for name in names if names.count(name) > 1}):
            raise KeyFileError(f"{self._path}: more than one key is named {', '.join(doubled)}")
        self._keys = keys
        return len(keys)

    def changed(self) -> bool:
        """Whether the key file is another one than was read last."""
        return self._path is not None and _stamp(self._path) != self._seen

    def find(self, authorization: str | None) -> Key | None:
        """The key of an Authorization header; None where it names none of ours.

        Every key is compared, each in constant time.
        """
        if self.open:
            return self._anonymous
        scheme, _, given = (authorization or "").partition(" ")
        sent = digest(given.strip())
        found = [key for key in self._keys if hmac.compare_digest(sent, key.sha256)]
        return found[0] if found and scheme.lower() == "bearer" else None

    def quota(self, key: Key) -> Quota:
        """What the key has used; it outlives a reload."""
        return self._quotas.setdefault(key.name, Quota())


def digest(value: str) -> str:
    """A key's hash, as the key file holds it: 64 hexadecimal digits."""
    return hashlib.sha256(value.encode()).hexdigest()


def make_key(name: str) -> tuple[str, str]:
    """A new key, and its entry for the key file.

    Raises:
        KeyFileError: the name cannot be used.
    """
    value = f"capo_{secrets.token_urlsafe(32)}"
    try:
        Key(name=name, sha256=digest(value))
    except ValidationError:
        raise KeyFileError(
            f"{name!r} is no name for a key: letters, digits, '.', '_' and '-', 63 at most"
        ) from None
    entry = f'[[key]]\nname = "{name}"\nsha256 = "{digest(value)}"\nroles = ["credit", "info"]\n'
    return value, entry


def _stamp(path: Path) -> tuple[int, ...] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size


def _read(path: Path) -> list[Key]:
    try:
        return _File.model_validate(tomllib.loads(path.read_text(encoding="utf-8"))).key
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise KeyFileError(f"the key file {path} cannot be read: {error}") from None
    except ValidationError as error:
        raise KeyFileError(f"the key file {path}: {first_error(error)[1]}") from None
