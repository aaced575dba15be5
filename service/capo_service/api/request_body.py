"""Reads the body of a request: bounded in bytes and in time, decompressed."""

from __future__ import annotations

import asyncio
import zlib
from typing import Any

from starlette.requests import ClientDisconnect, Request

from capo_service.api import problems
from capo_service.concurrency.cpu_thread import off_loop

_GZIP = ("gzip", "x-gzip")
# Each end of a member copies what is left of its piece: with the whole body as one piece, a million
# empty members would take minutes.
_GZIP_PIECE = 4096


def openapi_body(schema: dict[str, Any]) -> dict[str, Any]:
    """The description, in OpenAPI, of a JSON body that a route reads by itself."""
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


async def read_body(request: Request, limit: int, seconds: float) -> bytes:
    """The body, read no further than `limit` bytes, and for no longer than `seconds`.

    A gzip'd body is decompressed, to no more than `limit` bytes either.

    Raises:
        ProblemError: it is too large or too slow, its content type is not JSON, or its encoding is
            not supported.
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
            f"the body was not complete after {seconds:g} s, with {len(body)} bytes of the body "
            "received (setting read_seconds)",
            Connection="close",
        ) from None
    except ClientDisconnect:
        raise problems.error("client-closed", "the client closed the connection") from None
    if encoding not in _GZIP:
        return bytes(body)
    plain = await off_loop(_gunzip, bytes(body), limit)
    if len(plain) > limit:
        raise too_large
    return plain


def _gunzip(body: bytes, limit: int) -> bytes:
    """The decompressed body, or its first `limit` + 1 bytes.

    Raises:
        ProblemError: it is not gzip, or is truncated.
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
            raise zlib.error("it is truncated")
    except zlib.error as error:
        raise problems.error("not-json", f"the body is not valid gzip: {error}") from None
    return bytes(plain)
