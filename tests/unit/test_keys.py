"""API keys: hashes, roles, quotas, and a key file that changes."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from capo_service.scheduling.api_keys import (
    ANONYMOUS,
    ApiKey,
    KeyFileError,
    KeyRing,
    digest,
    make_key,
)
from capo_service.scheduling.quota import Quota, QuotaError, QuotaTooSmallError


def entry(name: str, value: str, more: str = "") -> str:
    return f'[[key]]\nname = "{name}"\nsha256 = "{digest(value)}"\n{more}\n'


def test_without_keys_every_role_is_granted() -> None:
    key = KeyRing().find(None)
    assert key is not None and key.name == ANONYMOUS
    assert key.roles == {"credit", "info", "metrics"}


def test_a_key_is_found_by_its_hash(tmp_path: Path) -> None:
    path = tmp_path / "keys.toml"
    path.write_text(entry("team", "secret", 'roles = ["info"]') + entry("other", "two"))
    ring = KeyRing(["plain"], path)
    found = {h: ring.find(h) for h in ("Bearer secret", "bearer  two ", "Bearer plain")}
    assert [key.name for key in found.values() if key] == ["team", "other", "key-1"]
    assert found["Bearer secret"] is not None and found["Bearer secret"].roles == {"info"}
    for wrong in (None, "", "secret", "Basic secret", "Bearer", f"Bearer {digest('secret')}"):
        assert ring.find(wrong) is None


def test_a_changed_file_is_reloaded_and_an_invalid_one_keeps_the_keys(tmp_path: Path) -> None:
    path = tmp_path / "keys.toml"
    path.write_text(entry("one", "a"))
    ring = KeyRing((), path)
    assert not ring.changed()
    path.write_text(entry("one", "b") + entry("two", "c"))
    assert ring.changed() and ring.reload() == 2 and not ring.changed()
    assert ring.find("Bearer a") is None and ring.find("Bearer c") is not None
    for bad, said in [
        ("[[key]\n", "cannot be read"),
        ('[[key]]\nname = "x"\nsha256 = "short"\n', r"key\[0\].sha256"),
        (entry("x", "a", 'role = "credit"'), r"key\[0\].role"),
        (entry("x", "a", 'roles = ["root"]'), r"key\[0\].roles"),
        (entry("x", "a") + entry("x", "b"), "more than one key is named x"),
    ]:
        path.write_text(bad)
        with pytest.raises(KeyFileError, match=said):
            ring.reload()
        assert ring.find("Bearer c") is not None
    path.unlink()
    assert ring.changed()
    with pytest.raises(KeyFileError, match="cannot be read"):
        ring.reload()


def test_a_created_key_works_and_is_not_stored_in_the_file(tmp_path: Path) -> None:
    value, made = make_key("team-a")
    path = tmp_path / "keys.toml"
    path.write_text(made)
    assert value not in made and len(value) > 40
    found = KeyRing((), path).find(f"Bearer {value}")
    assert found is not None and found.name == "team-a"
    with pytest.raises(KeyFileError, match="is not a valid key name"):
        make_key("two words")


def key(**limits: int) -> ApiKey:
    return ApiKey.model_validate({"name": "k", "sha256": "0" * 64, **limits})


def test_unanswered_rollouts_count_against_the_quota() -> None:
    quota, limited = Quota(), key(max_queued=10)
    with quota.hold(limited, 7, lambda n: n):
        with quota.hold(limited, 3, lambda n: n):
            pass
        with pytest.raises(QuotaError) as refused, quota.hold(limited, 5, lambda n: 10 * n):
            pass
        assert refused.value.retry_after == 20  # two rollouts too many
        with pytest.raises(QuotaError), quota.hold(limited, 4, lambda n: n):
            pass
    assert quota.queued == 0
    told = pytest.raises(QuotaTooSmallError, match="11 rollouts and the key k allows 10")
    with told, quota.hold(limited, 11, lambda n: n):
        pass


@given(st.integers(1, 500), st.lists(st.tuples(st.integers(1, 80), st.floats(0, 90)), max_size=40))
def test_a_rate_is_never_exceeded_and_retry_after_suffices(
    rate: int, sent: list[tuple[int, float]]
) -> None:
    now = 0.0
    quota, limited = Quota(lambda: now), key(rollouts_per_minute=rate)
    taken: list[tuple[float, int]] = []
    for rollouts, pause in sent:
        now += pause
        if rollouts > rate:
            continue
        try:
            with quota.hold(limited, rollouts, lambda n: n):
                taken.append((now, rollouts))
        except QuotaError as refused:
            assert refused.retry_after <= max(1, math.ceil(rollouts * 60 / rate))
            now += refused.retry_after
            with quota.hold(limited, rollouts, lambda n: n):
                taken.append((now, rollouts))
    # A full bucket and what flows in meanwhile: never more, from any time on.
    for start, _ in taken:
        for end, _ in taken:
            within = sum(n for at, n in taken if start <= at <= end)
            assert start > end or within <= rate + (end - start) * rate / 60 + 1e-3
