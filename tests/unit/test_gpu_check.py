"""make gpu-check without an engine: what it finds wrong, reports, keeps and runs again."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from capo_wire import Credited, Info, Outcome, Step, Usage, Votes

GPU_CHECK = Path(__file__).parents[2] / "bench" / "gpu_check"
sys.path.insert(0, str(GPU_CHECK))

import checks  # noqa: E402
import made_rollouts  # noqa: E402
import report  # noqa: E402
from context import Context, Found  # noqa: E402

sys.path.remove(str(GPU_CHECK))

TEXT = "one\n\ntwo"
SPANS = [(0, 3), (3, 5), (5, 7), (7, 8)]


def credited(rewards: list[float], cut: int = 2) -> Credited:
    def step(index: int, span: tuple[int, int], tokens: tuple[int, int], reward: float) -> Step:
        votes = Votes(wrong=index, valid=1, asked=1)
        return Step(
            index=index,
            span=span,
            token_span=tokens,
            wrong=index == 1,
            penalty=0.0,
            votes=votes,
            reward=reward,
        )

    return Credited(
        id="0",
        outcome=Outcome(value=1.0, source="caller"),
        steps=[step(0, (0, 5), (0, cut), 2.0), step(1, (5, 8), (2, 4), 1.0)],
        token_rewards=rewards,
        usage=Usage(),
        cached=False,
    )


def test_rewards_of_every_token_are_checked() -> None:
    assert checks.misaligned(TEXT, SPANS, credited([2.0, 2.0, 1.0, 1.0])) is None
    assert "token 1 of step 0" in str(
        checks.misaligned(TEXT, SPANS, credited([2.0, 1.0, 1.0, 1.0]))
    )
    assert "3 rewards for 4" in str(checks.misaligned(TEXT, SPANS, credited([2.0, 2.0, 1.0])))
    assert "gap" in str(checks.misaligned(TEXT, SPANS, credited([2.0, 2.0, 1.0, 1.0], cut=1)))


def test_rollouts_are_of_the_lengths_that_they_say_and_never_alike() -> None:
    made = {length: made_rollouts.groups("a", 8, 4, length) for length in made_rollouts.PROBLEMS}
    for rollouts in made.values():
        assert len({each.response for each in rollouts}) == 8
        assert len({each.question for each in rollouts}) == 2
        assert all(len(each.steps) == len(each.wrong) for each in rollouts)
    typical, long = ([len(each.response) for each in made[n]] for n in ("typical", "long"))
    assert min(typical) > 1200 and max(typical) < 3000 and 5000 < min(long) < 10_000
    latex = made_rollouts.group("a", 1, latex=True)[0].response
    assert "\\[" in latex or "$$" in latex
    assert made_rollouts.groups("a", 3, 2) != made_rollouts.groups("b", 3, 2)


def context(minutes: float = 15.0) -> Context:
    info = Info(
        version="0",
        model="judge",
        engine="vllm",
        context_length=8192,
        critique_style="brief",
        critique_format="json",
        tokenizers=[],
        voting_methods=[],
        reward_schemes=[],
        segment_methods=[],
        limits={},
    )
    return Context("", None, info, "judge", 1.0, minutes, "run")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("seconds_each", "minutes", "counts"),
    [
        (0.001, 15, [2, 8, 32, 64]),
        (0.5, 15, [2, 8]),  # 32 would take 16 s
        (0.5, 30, [2, 8, 32]),
        (9.0, 15, [2]),
    ],
)
def test_slow_machines_get_fewer_rollouts_and_the_report_says_so(
    seconds_each: float, minutes: float, counts: list[int]
) -> None:
    found, ran = Found(), []

    def run(count: int) -> float:
        ran.append(count)
        return count * seconds_each

    assert context(minutes).grow(found, 10, 64, run) == counts[-1]
    assert ran == counts
    assert bool(found.notes) == (counts[-1] < 64)


def test_rollouts_fit_into_the_judges_context() -> None:
    small, middle = context(), context()
    small.info = small.info.model_copy(update={"context_length": 1024})
    middle.info = middle.info.model_copy(update={"context_length": 4096})
    assert [each.fitting("long") for each in (small, middle, context())] == [
        "plain",
        "typical",
        "long",
    ]
    [plain] = small.groups("x", 1, 1)
    assert plain.steps[1].count("=") == 1 and len(plain.steps[1]) < 16


def state(**parts: dict[str, Any]) -> dict[str, Any]:
    return {
        "settings": {
            "model": "judge",
            "engine_args": ["a=1"],
            "minutes": 15,
            "price_per_hour": 3.6,
        },
        "device": {
            "gpus": [{"name": "NVIDIA H100", "memory.total": "81559 MiB", "driver_version": "570"}],
            "cpu": "a CPU",
            "cores": 8,
            "python": "3.12",
            "versions": {"vllm": "0.32"},
            "commit": "abc",
        },
        "order": ["alignment", "throughput", "bare_engine"],
        "parts": parts,
    }


RATES = {"rollouts_per_s": 10.0, "tokens_per_s": 500.0, "prompt_tokens_per_s": 9000.0}


def test_the_report_names_failures_and_what_is_missing() -> None:
    text = report.markdown(
        state(
            alignment={
                "status": "done",
                "notes": ["a note"],
                "numbers": {},
                "checks": [{"name": "tokens", "ok": False, "detail": "one | two\nthree"}],
            },
            throughput={"status": "failed", "error": "ValueError: no", "checks": [], "notes": []},
        )
    )
    assert "1 checks, 1 failed; 2 of 3 parts run" in text
    assert "Parts that ended in an error: throughput" in text
    assert "not run yet: bare_engine" in text
    assert "| **FAILED** | tokens | one \\| two three |" in text
    assert "| **ERROR** | part throughput | ValueError: no |" in text
    assert "NVIDIA H100, 81559 MiB, driver 570" in text and "- a note: alignment" in text


def test_the_report_has_the_price_of_a_thousand_rollouts() -> None:
    limits = {"max_num_seqs": 1, "max_num_batched_tokens": 2, "kv_cache_tokens": 3, "block_size": 4}
    numbers = {"rollouts": 8, "length": "long", **RATES}
    bare = {**numbers, "overhead_ratio": 0.98, "limits": limits}
    text = report.markdown(
        state(
            throughput={"status": "done", "numbers": numbers, "checks": []},
            bare_engine={"status": "done", "numbers": bare, "checks": []},
        )
    )
    assert "engine: **0.98**" in text and "price of 1,000 rollouts at 3.6 an hour" in text
    assert "| service | 10 | 500 | 9,000 | 0.1 |" in text


def run(monkeypatch: pytest.MonkeyPatch, folder: Path, *options: str) -> int:
    import runpy

    monkeypatch.syspath_prepend(str(GPU_CHECK))
    command = ["gpu_check", "--model", "judge", "--out", str(folder), *options]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(GPU_CHECK / "__main__.py"), run_name="__main__")
    return int(ended.value.code or 0)


class FakeProcesses:
    """A service and a bare engine that start at once, or not at all."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, broken: Sequence[str] = ()) -> None:
        monkeypatch.syspath_prepend(str(GPU_CHECK))
        import measures
        import processes

        self.started: list[str] = []
        self.ran: list[str] = []
        self.broken = set(broken)
        monkeypatch.setattr(processes, "service", self._service)
        monkeypatch.setattr(processes, "bare", self._bare)
        for module in (checks, measures):
            for name in list(vars(module)):
                if name in PARTS:
                    monkeypatch.setattr(module, name, self._part(name))

    def _part(self, name: str) -> Any:
        def part(*_: Any) -> Found:
            self.ran.append(name)
            if name in self.broken:
                raise ValueError("it broke")
            found = Found(dict(NUMBERS.get(name, {})))
            found.check(name, True, "")
            return found

        return part

    def _service(self, *_: Any) -> Any:
        return self._process("service", ("http://127.0.0.1:1", 1.0))

    def _bare(self, *_: Any) -> Any:
        return self._process("bare", (None, {"ready_s": 1.0}))

    def _process(self, name: str, told: Any) -> Any:
        from contextlib import contextmanager

        @contextmanager
        def process() -> Any:
            self.started.append(name)
            yield told

        return process()


PARTS = [
    "readiness",
    "alignment",
    "prefix",
    "throughput",
    "grammar",
    "thinking",
    "early_stop",
    "determinism",
    "styles",
    "votes",
    "budgets",
    "latency",
    "bare_engine",
]
NUMBERS: dict[str, dict[str, Any]] = {
    "throughput": {"rollouts": 8, "run": "r", "length": "plain", **RATES},
}


def test_a_part_that_fails_is_run_again_and_finished_ones_are_kept(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("capo_client.CreditClient.info", lambda _: context().info)
    fake = FakeProcesses(monkeypatch, broken=["grammar"])
    assert run(monkeypatch, tmp_path) == 1
    assert fake.ran == PARTS and fake.started == ["service", "bare"]
    found = json.loads((tmp_path / "report.json").read_text())
    assert found["parts"]["grammar"]["error"] == "ValueError: it broke"
    assert "part grammar | ValueError: it broke" in (tmp_path / "report.md").read_text()

    fake.broken.clear()
    fake.ran.clear()
    assert run(monkeypatch, tmp_path) == 0
    assert fake.ran == ["grammar"]
    fake.ran.clear()
    assert run(monkeypatch, tmp_path) == 0 and fake.ran == []
    assert fake.started == ["service", "bare", "service"]
    # Another judge's report is not continued, and not lost.
    assert run(monkeypatch, tmp_path, "--engine-arg", "max_model_len=99") == 0
    assert fake.ran == PARTS and (tmp_path / "report-before.json").exists()


def test_a_check_that_fails_is_the_exit_code(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("capo_client.CreditClient.info", lambda _: context().info)
    FakeProcesses(monkeypatch)

    def unread(_: Context) -> Found:
        found = Found()
        found.check("read", False, "1 of 2")
        return found

    monkeypatch.setattr(checks, "grammar", unread)
    assert run(monkeypatch, tmp_path) == 1
