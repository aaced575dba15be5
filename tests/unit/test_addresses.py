"""Where the service is, and which proxy leads there."""

from __future__ import annotations

import os

import pytest

from capo_client import AsyncCreditClient, CapoError, ConfigurationError, CreditClient
from capo_client.addresses import parse_urls, proxy_for


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("127.0.0.1:8000", "has no scheme: write http://127.0.0.1:8000"),
        ("localhost:8000", "has no scheme: write http://localhost:8000"),
        ("judge", "has no scheme: write http://judge"),
        ("//judge", "has no scheme"),
        ("ftp://judge", "the scheme ftp"),
        ("htttp://judge:8000", "the scheme htttp"),
        ("http://judge:99999", "the port 99999"),
        ("http://judge:0", "the port 0"),
        ("http://judge:-1", "the port -1"),
        ("http://judge:eight", "cannot be read"),
        ("http://[::1", "cannot be read"),
        ("http://", "names no host"),
        ("http:///credit", "names no host"),
        ("http://my judge", "names no host"),
        ("http://judge/x?y=1", "has a query"),
        (["http://a", "b"], "'b' has no scheme"),
        ([], "give the URL"),
        (" , ", "give the URL"),
        ("http://a,http://a/", "several different ones"),
    ],
)
def test_a_url_that_cannot_work_is_refused_at_once(url: str | list[str], said: str) -> None:
    for client in (CreditClient, AsyncCreditClient):
        if not url:
            break  # which stands for the default
        with pytest.raises(ConfigurationError, match=said) as caught:
            client(url)
        assert isinstance(caught.value, CapoError) and isinstance(caught.value, ValueError)
    with pytest.raises(ConfigurationError, match=said):
        AsyncCreditClient(parse_urls(url))


def test_urls_that_work_are_taken_as_they_are() -> None:
    urls = "http://a:8000/, https://b/judge/ ,http://[::1]:80,HTTP://C,"
    expected = ["http://a:8000", "https://b/judge", "http://[::1]:80", "HTTP://C"]
    assert parse_urls(urls) == expected


@pytest.mark.parametrize(
    "settings", [{"api_key": "a\nb"}, {"api_key": "schlüssel"}, {"batch_size": 0}]
)
def test_other_settings_that_cannot_work(settings: dict[str, object]) -> None:
    with pytest.raises(ConfigurationError):
        CreditClient("http://judge", **settings)


def test_a_key_may_end_in_a_new_line_as_files_do() -> None:
    assert AsyncCreditClient("http://judge", api_key="k\n")._settings.api_key == "k"


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    return monkeypatch


@pytest.mark.parametrize(
    ("url", "no_proxy", "direct"),
    [
        ("http://127.0.0.1:8000", "", True),
        ("http://127.9.9.9", "", True),
        ("http://localhost:8000", "", True),
        ("http://judge.localhost", "", True),
        ("http://[::1]:8000", "", True),
        ("http://0.0.0.0:8000", "", True),
        ("http://10.1.2.3:8000", "", False),
        ("http://10.1.2.3:8000", "10.0.0.0/8", True),
        ("http://11.1.2.3:8000", "10.0.0.0/8", False),
        ("http://[fd00::5]", "fd00::/8", True),
        ("http://[fd00::5]", "10.0.0.0/8, fd00::5", True),
        ("http://10.1.2.3:8000", "localhost,10.1.2.3", True),
        ("http://10.1.2.3:8000", "10.1.2.3:8000", True),
        ("http://10.1.2.3:8000", "10.1.2.3:9000", False),
        ("http://judge:80", "judge:80", True),
        ("http://judge", "judge:80", True),
        ("http://judge.cluster.local", ".cluster.local", True),
        ("http://judge.cluster.local", "*.cluster.local", True),
        ("http://judge.cluster.local", "Cluster.Local", True),
        ("http://judgecluster.local", "cluster.local", False),
        ("http://judge", "*", True),
        ("http://judge", "https://judge", False),
        ("http://judge", "http://judge", True),
        ("http://judge", "not/a/network, ,", False),
    ],
)
def test_no_proxy(environment: pytest.MonkeyPatch, url: str, no_proxy: str, direct: bool) -> None:
    environment.setenv("http_proxy", "http://user:secret@10.9.9.9:3128")
    environment.setenv("NO_PROXY", no_proxy)
    found = proxy_for(url)
    assert (found is None) == direct
    if found is not None:
        assert str(found) == "the proxy http://10.9.9.9:3128 (http_proxy)"
    assert proxy_for(url.replace("http:", "https:")) is None


def test_which_proxy(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("ALL_PROXY", "10.9.9.9:3128")
    environment.setenv("HTTPS_PROXY", "http://10.8.8.8:1")
    assert str(proxy_for("http://judge")) == "the proxy http://10.9.9.9:3128 (ALL_PROXY)"
    assert str(proxy_for("https://judge")) == "the proxy http://10.8.8.8:1 (HTTPS_PROXY)"


def test_proxies_that_cannot_be_used_matter_only_where_they_are(
    environment: pytest.MonkeyPatch,
) -> None:
    environment.setitem(__import__("sys").modules, "socksio", None)
    for value, said in (
        ("socks5://10.9.9.9:1080", r"ALL_PROXY.* is a SOCKS proxy.*httpx\[socks\].*NO_PROXY"),
        ("socks4://10.9.9.9:1080", "ALL_PROXY names a proxy that cannot be used.*judge.*NO_PROXY"),
    ):
        environment.setenv("ALL_PROXY", value)
        AsyncCreditClient("http://127.0.0.1:8000")
        with pytest.raises(ConfigurationError, match=said):
            AsyncCreditClient("http://judge")
        environment.setenv("NO_PROXY", "judge")
        AsyncCreditClient("http://judge")
        environment.delenv("NO_PROXY")
