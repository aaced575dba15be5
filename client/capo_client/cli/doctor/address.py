"""URL, host, port, TLS: whether a capo service answers there, and if not, what does."""

from __future__ import annotations

import ipaddress
import re
import socket
import ssl
from contextlib import suppress
from typing import Any, NoReturn

import httpx

from capo_client._http import CONNECT_SECONDS, Failure, explain
from capo_client._problems import is_from_proxy
from capo_client.async_client import DEFAULT_URL
from capo_client.cli.doctor.report import Report
from capo_client.cli.exit_codes import FAILURES, UNAVAILABLE
from capo_wire.proxies import Proxy

SERVICE = "capo-credit"
_PROBLEMS = "urn:capo:problem:"
_DEFAULT_PORT = httpx.URL(DEFAULT_URL).port
_START = "capo serve --host 0.0.0.0 (without --host it listens on its own machine only)"
_EXCERPT = 80  # characters of an unknown response


def is_local(url: str) -> bool:
    """Whether a URL names this machine's loopback interface."""
    host = httpx.URL(url).host
    with suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost" or host.endswith(".localhost")


def check_address(report: Report, proxy: Proxy | None) -> None:
    """Check that the host is known and that its port accepts connections.

    Raises:
        CannotGoOn: it is not, or does not.
    """
    host, port = _target(report.url)
    if proxy is not None:
        report.ok("proxy", f"requests to {host} go through {proxy}", f"to skip it: NO_PROXY={host}")
        return
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        report.stop(
            "host",
            f"the host {host!r} is unknown: {error.strerror}",
            "correct the URL (--url or CAPO_URL). Names of containers and of Kubernetes services "
            "are known only inside their network",
            UNAVAILABLE,
        )
    addresses = sorted({str(address[4][0]) for address in found})
    if addresses != [host]:
        report.ok("host", f"{host} is {', '.join(addresses)}")
    try:
        socket.create_connection((host, port), timeout=CONNECT_SECONDS).close()
    except OSError as error:
        _explain_connection(report, error)
    report.ok("port", f"port {port} accepts connections")


def _explain_connection(report: Report, error: OSError) -> NoReturn:
    url, (host, port) = report.url, _target(report.url)
    scheme = httpx.URL(url).scheme
    other = f"{scheme}://{_bracketed(host)}:{_DEFAULT_PORT}"
    if isinstance(error, ConnectionRefusedError):
        detail = f"connection refused: nothing listens on port {port} of {host}"
        if port != _DEFAULT_PORT and _is_capo_at(other):
            advice = f"a capo service answers on port {_DEFAULT_PORT}: use --url {other}"
        elif is_local(url):
            advice = f"start it with capo serve --port {port}, or correct the URL"
        else:
            advice = f"start it there with {_START}, or correct the port"
    elif isinstance(error, TimeoutError):
        detail = f"no answer from {host}, port {port}, within {CONNECT_SECONDS:g} s"
        advice = (
            "a firewall, a security group or a NetworkPolicy drops the connection, or the host is "
            "down: allow this port, or correct the URL"
        )
    else:
        detail = f"{host}, port {port}, cannot be reached: {error.strerror or error}"
        advice = "check the network between here and there, or correct the URL"
    report.stop("port", detail, advice, UNAVAILABLE)


def _is_capo_at(url: str) -> bool:
    try:
        return is_capo(httpx.get(f"{url}/info", timeout=2, trust_env=False))
    except (httpx.HTTPError, ssl.SSLError):
        return False


def check_identity(report: Report, http: httpx.Client, proxy: Proxy | None) -> None:
    """Check that TLS works and that a capo service answers.

    Args:
        report: receives the results.
        http: sends requests to the service, relative to its URL.
        proxy: the proxy of these requests, if any.

    Raises:
        CannotGoOn: it does not.
    """
    url = report.url
    try:
        response = http.get("/info")
    except httpx.TransportError as error:
        _explain_transport(report, explain(error, url, proxy, reached=False), proxy is None)
    if httpx.URL(url).scheme == "https":
        report.ok("TLS", "the certificate is trusted")
    if is_capo(response):
        _check_path(report, response)
        report.ok("service", "a capo service answers")
        return
    if is_from_proxy(response) or response.status_code == 503:
        report.stop(
            "service",
            f"a gateway answers {response.status_code}: it cannot reach the service behind it",
            "start the service, or correct the gateway's target",
            UNAVAILABLE,
        )
    detail, advice = _what_answers(http, response)
    report.stop("service", f"no capo service answers here, but {detail}", advice, FAILURES)


def is_capo(response: httpx.Response) -> bool:
    """Whether a response to `GET /info` is a capo service's, an error included."""
    data = _json(response)
    kind = data.get("type")
    return data.get("service") == SERVICE or (isinstance(kind, str) and kind.startswith(_PROBLEMS))


def _check_path(report: Report, response: httpx.Response) -> None:
    base = str(httpx.URL(report.url).copy_with(raw_path=b"/")).rstrip("/")
    if response.status_code == 404:
        report.stop(
            "service",
            f"a capo service answers, and has no path {httpx.URL(report.url).path}",
            f"use --url {base}",
            FAILURES,
        )


def _explain_transport(report: Report, failure: Failure, is_direct: bool) -> NoReturn:
    parsed, (host, port) = httpx.URL(report.url), _target(report.url)
    rest, is_https = report.url.partition("://")[2], parsed.scheme == "https"
    detail = failure.detail
    advice = "correct what the message names, or the URL (--url or CAPO_URL)"
    if is_direct and not is_https and _speaks_tls(host, port):
        detail, advice = f"port {port} of {host} speaks TLS", f"use --url https://{rest}"
    elif is_direct and is_https and _speaks_http(rest):
        detail, advice = f"port {port} of {host} does not use TLS", f"use --url http://{rest}"
    elif is_https and failure.retry_seconds > 0:  # TLS 1.3 servers only close the connection
        advice = (
            "if the service asks for client certificates, name this client's by CAPO_CERT_FILE and "
            "CAPO_KEY_FILE"
        )
    report.stop("TLS" if is_https else "HTTP", detail, advice, UNAVAILABLE)


def _speaks_tls(host: str, port: int) -> bool:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # nothing is sent but the handshake
    try:
        with socket.create_connection((host, port), timeout=CONNECT_SECONDS) as plain:
            context.wrap_socket(plain, server_hostname=host).close()
    except ssl.SSLError as error:
        # A server that asks for a client certificate may refuse after the handshake began.
        return "CERTIFICATE" in str(error)
    except OSError:
        return False
    return True


def _speaks_http(rest: str) -> bool:
    try:
        httpx.get(f"http://{rest}/", timeout=CONNECT_SECONDS, trust_env=False)
    except httpx.HTTPError:
        return False
    return True


def _what_answers(http: httpx.Client, response: httpx.Response) -> tuple[str, str]:
    """What a server is that is not a capo service, and what to do."""
    correct = "correct the URL (--url or CAPO_URL)"
    if response.has_redirect_location:
        target = response.headers["location"]
        return f"a redirect to {target}", f"use that service's URL instead: {target}"
    if (server := _model_server(http)) is not None:
        name, model = server
        return (
            f"{name} with the model {model}" if model else name,
            f"put capo in front of it: capo serve --engine openai --base-url {http.base_url} "
            f"--model {model or 'NAME'}, and use that service's URL",
        )
    if "html" in response.headers.get("content-type", ""):
        title = re.search(r"<title[^>]*>(.*?)</title>", response.text, re.I | re.S)
        name = f" with the title {' '.join(title[1].split())[:_EXCERPT]!r}" if title else ""
        return f"a web page{name} (status {response.status_code})", correct
    text = " ".join(response.text.split())[:_EXCERPT]
    return f"another server: GET /info returns {response.status_code} {text!r}", correct


def _model_server(http: httpx.Client) -> tuple[str, str] | None:
    """The kind of an OpenAI-compatible server and its first model; None if it is another server."""
    models, version = _get_json(http, "/v1/models"), _get_json(http, "/version")
    listed = models.get("data") if models.get("object") == "list" else None
    first = listed[0] if isinstance(listed, list) and listed else {}
    owner = str(first.get("owned_by", "")) if isinstance(first, dict) else ""
    model = str(first.get("id", "")) if isinstance(first, dict) else ""
    if owner == "vllm" or (set(version) == {"version"} and "error" in models):
        return f"a vLLM server {version.get('version', '')}".rstrip(), model
    if isinstance(listed, list):
        return f"an OpenAI-compatible server{f' ({owner})' if owner else ''}", model
    return None


def _get_json(http: httpx.Client, path: str) -> dict[str, Any]:
    # Models and version are at the root, also for a URL that ends with /v1.
    url = http.base_url.copy_with(raw_path=path.encode())
    try:
        return _json(http.get(url))
    except httpx.HTTPError:
        return {}


def _json(response: httpx.Response) -> dict[str, Any]:
    try:
        data = response.json()
    except ValueError:
        return {}
    return data if isinstance(data, dict) else {}


def _target(url: str) -> tuple[str, int]:
    parsed = httpx.URL(url)
    return parsed.host, parsed.port or (443 if parsed.scheme == "https" else 80)


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
