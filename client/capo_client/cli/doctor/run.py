"""`capo doctor`: check a running service step by step, and say what to change."""

from __future__ import annotations

import json
import sys
from typing import Annotated, Any

import httpx
import typer
from rich.console import Console

from capo_client import errors
from capo_client._http import PROBE_SECONDS, tls
from capo_client.addresses import parse_urls, proxy_for
from capo_client.async_client import DEFAULT_URL
from capo_client.cli import console
from capo_client.cli.doctor import address, rollouts, service
from capo_client.cli.doctor.report import CannotGoOn, Report
from capo_client.cli.exit_codes import UNAVAILABLE
from capo_client.cli.options import ApiKeyOption, JsonOption, UrlOption
from capo_client.client import CreditClient
from capo_client.connections import certificate_files

_COMMAND = "capo doctor"


def doctor(
    url: UrlOption = None,
    api_key: ApiKeyOption = None,
    tokenizer: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Check that token ids of this tokenizer can be sent.",
            show_default="none",
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Check a running service step by step, and say what to change.

    Checks address, key, versions, judge, tokenizers and limits; credits a rollout end to end; then
    measures the throughput with at most 32 small rollouts, for at most 10 seconds.
    """
    key = (api_key or "").strip() or None
    note = "Nothing was changed."
    with console.explained(_COMMAND), console.stoppable(_COMMAND, note):
        urls = parse_urls(url or DEFAULT_URL)
        reports = [_examine(each, key, tokenizer, as_json) for each in urls]
    if as_json:
        found = [report.as_dict() for report, _ in reports]
        typer.echo(json.dumps(found[0] if len(found) == 1 else {"services": found}))
    raise typer.Exit(max(code for _, code in reports))


def _examine(
    url: str, key: str | None, tokenizer: str | None, is_quiet: bool
) -> tuple[Report, int]:
    """All checks of one service, and the exit code that they mean."""
    report = Report(url, is_quiet)
    report.ok("url", url)
    try:
        _check(report, key, tokenizer)
        code = report.code
    except CannotGoOn as stopped:
        code = stopped.code
    except (httpx.TransportError, errors.UnavailableError) as error:  # it answered before
        advice = "run this command again; if this repeats, see the service's log"
        report.fail("connection", f"the connection was lost: {error}", advice)
        code = UNAVAILABLE
    if not is_quiet and sys.stdout.isatty():
        Console(highlight=False).print(report.summary())
    return report, code


def _check(report: Report, key: str | None, tokenizer: str | None) -> None:
    proxy = proxy_for(report.url)
    ca, cert = certificate_files()
    with httpx.Client(
        base_url=report.url,
        verify=tls(ca, cert) if report.url.startswith("https://") else False,
        proxy=proxy.url if proxy else None,
        timeout=PROBE_SECONDS,
        trust_env=False,
    ) as http:
        address.check_address(report, proxy)
        address.check_identity(report, http, proxy)
        service.check_ready(report, http)
        info = service.check_key(report, http, key)
        if info is not None:
            service.check_versions(report, info)
            service.check_judge(report, info)
            service.check_tokenizers(report, info, tokenizer)
            service.check_limits(report, info)
        settings: dict[str, Any] = {"url": report.url, "api_key": key}
        with CreditClient(**settings) as client:
            rollout, latency = rollouts.check_rollout(report, client)
            if info is not None and tokenizer in info.tokenizers:
                rollouts.check_token_ids(report, client, http, str(tokenizer))
            rollouts.check_cache(report, client, rollout)
        rollouts.check_throughput(report, rollouts.measure(report, settings, latency))
        service.check_monitoring(report, http)
