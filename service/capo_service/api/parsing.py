"""Body -> envelope and rollouts. A bad envelope refuses the request, a bad rollout only itself."""

from __future__ import annotations

import asyncio
import json
import zlib
from collections.abc import Mapping
from typing import Any

import pydantic_core
from pydantic import ValidationError
from starlette.requests import ClientDisconnect, Request

import capo_wire as wire
from capo_service.api import problems
from capo_service.api.json_splitting import split
from capo_service.concurrency.cpu_thread import off_loop
from capo_service.pipeline.types import RolloutBatch
from capo_wire.validation import first_error

_GZIP = ("gzip", "x-gzip")
# Each end of a member copies what is left of its piece: with the whole body as one piece, a million
# empty members would take minutes.
_GZIP_PIECE = 4096
_LONGEST_ID = 256
_SPLIT_ABOVE = 256 * 1024  # bytes; less is parsed in a millisecond
_SURROGATE = "holds a lone surrogate, which is no Unicode text; replace it by U+FFFD"


async def read_body(request: Request, limit: int, seconds: float) -> bytes:
    """The body, read no further than `limit` bytes, and for no longer than `seconds`.

    A gzip'd body is decompressed, to no more than `limit` bytes either.

    Raises:
        ProblemError: it is larger or late, its content type is not JSON, or it is encoded in
            another way.
    """
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json" and not media_type.endswith("+json"):
        raise problems.error(
            "wrong-media-type", f"send Content-Type: application/json, not {media_type or 'none'!r}"
        )
    encoding = request.headers.get("content-encoding", "").strip().lower()
    if encoding not in ("", "identity", *_GZIP):
        raise problems.error(
            "wrong-encoding",
            f"Content-Encoding {encoding!r} is not supported; send gzip, or no Content-Encoding",
            Accept_Encoding="gzip",
        )
    too_large = problems.error(
        "too-large",
        f"the body is larger than {limit} bytes (setting max_body_bytes); send fewer rollouts",
    )
    if int(request.headers.get("content-length") or 0) > limit:
        raise too_large
    body = bytearray()
    try:
        async with asyncio.timeout(seconds):
            async for chunk in request.stream():
                body += chunk
                if len(body) > limit:
                    raise too_large
    except TimeoutError:
        raise problems.error(
            "request-timeout",
            f"{len(body)} bytes of the body came in {seconds:g} s (setting read_seconds)",
            Connection="close",
        ) from None
    except ClientDisconnect:
        raise problems.error("client-closed", "the caller closed the connection") from None
    if encoding not in _GZIP:
        return bytes(body)
    plain = await off_loop(_gunzip, bytes(body), limit)
    if len(plain) > limit:
        raise too_large
    return plain


def _gunzip(body: bytes, limit: int) -> bytes:
    """What a gzip'd body holds, or its first `limit` + 1 bytes.

    Raises:
        ProblemError: it is not gzip, or cut off.
    """
    plain = bytearray()
    member = None  # the one that is being read
    padding = b""  # what may follow a member
    try:
        for start in range(0, len(body), _GZIP_PIECE):
            piece = body[start : start + _GZIP_PIECE]
            while len(plain) <= limit:
                if member is None:
                    piece = piece.lstrip(padding)
                if not piece:
                    break
                member = member or zlib.decompressobj(wbits=31)  # 15 bits of window, and a header
                plain += member.decompress(piece, limit + 1 - len(plain))
                piece = member.unused_data
                if member.eof:
                    member, padding = None, b"\0"
        if member is not None and len(plain) <= limit:
            raise zlib.error("it ends too early")
    except zlib.error as error:
        raise problems.error("not-json", f"the body is not valid gzip: {error}") from None
    return bytes(plain)


def parse(body: bytes, max_rollouts: int) -> RolloutBatch:
    """Check the envelope, then each rollout apart. CPU work only; safe in any thread.

    Raises:
        ProblemError: the body is not JSON or the envelope is not valid.
    """
    pieces = split(body) if len(body) > _SPLIT_ABOVE else None
    data, odd = _load(pieces.envelope if pieces else body)
    if not isinstance(data, dict):
        raise problems.error("invalid-request", "the body must be a JSON object")
    rollouts = data.pop("rollouts", None)
    if pieces:
        rollouts = pieces.rollouts
    if not isinstance(rollouts, list) or not rollouts:
        raise problems.error(
            "invalid-request", "rollouts must be a list with at least one rollout", "rollouts"
        )
    if len(rollouts) > max_rollouts:
        raise problems.error(
            "too-large",
            f"the request has {len(rollouts)} rollouts; this service takes {max_rollouts} "
            "(setting max_rollouts)",
            "rollouts",
        )
    if odd and not _is_text(data):
        raise problems.error("not-json", f"an option of the request {_SURROGATE}")
    try:
        options = wire.CreditOptions.model_validate(data)
    except ValidationError as error:
        field, detail = first_error(error)
        raise problems.error("invalid-request", detail, field) from None
    loaded = [_load(piece) for piece in pieces.rollouts] if pieces else [(r, odd) for r in rollouts]
    ids = [_id(rollout, position) for position, (rollout, _) in enumerate(loaded)]
    items = [
        _refused(name, f"the rollout {_SURROGATE}")
        if odd and not _is_text(rollout)
        else _item(rollout, name)
        for (rollout, odd), name in zip(loaded, ids, strict=True)
    ]
    return RolloutBatch(options, ids, items)


def _load(body: bytes) -> tuple[Any, bool]:
    """What JSON says, and whether its text may hold lone surrogates."""
    try:
        return pydantic_core.from_json(body), False
    except ValueError as error:
        # Python's own parser lets lone surrogates through: the rollout that holds one is refused,
        # not the batch.
        if "escape" in str(error):
            try:
                return json.loads(body), True
            except (ValueError, RecursionError):
                pass
        raise problems.error("not-json", f"the body is not valid JSON: {error}") from None


def _is_text(value: Any) -> bool:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def _id(rollout: Any, position: int) -> str:
    given = rollout.get("id") if isinstance(rollout, Mapping) else None
    if not isinstance(given, str) or len(given) > _LONGEST_ID or not _is_text(given):
        return str(position)
    return given


def _item(rollout: Any, name: str) -> wire.Rollout | wire.Failed:
    try:
        return wire.Rollout.model_validate(rollout)
    except ValidationError as error:
        field, detail = first_error(error)
        return _refused(name, detail, field)


def _refused(name: str, detail: str, field: str | None = None) -> wire.Failed:
    return wire.Failed(id=name, error=problems.make("invalid-rollout", detail, field))
