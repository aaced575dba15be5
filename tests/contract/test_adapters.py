"""What adapters share, and the routes for remote reward clients, before a real service."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from capo_client import CreditFailedError, InvalidRequestError, UnauthorizedError, UnavailableError
from capo_client.adapters.scoring import Sample, Scorer
from kit import tokenizer
from kit_scripted import ScriptedEngine
from kit_service import Service, serving, settings

TEXT = "1 + 1 = 2.\n\nWRONG: 2 + 2 = 5.\n\n#### 5"


@pytest.fixture
def scorer(service: Service) -> Iterator[Scorer]:
    made = Scorer(service.url, tokenizer=tokenizer("gpt2"))
    yield made
    made.close()


def test_each_token_has_its_reward_and_the_whole_its_mean(scorer: Scorer) -> None:
    ids = tokenizer("gpt2").encode(TEXT).ids
    [one, other] = scorer.score_now(
        [Sample("q", ids=ids, outcome=1.0), Sample("q", text=TEXT, outcome=1.0)]
    )
    assert one.token_rewards is not None and len(one.token_rewards) == len(ids)
    assert set(one.token_rewards) == {2.0, 1.0}
    assert one.reward == pytest.approx(sum(one.token_rewards) / len(ids))
    assert (one.steps, one.wrong, one.agreement, one.outcome) == (3, 1, 1.0, 1.0)
    assert one.metrics()["capo_wrong_step_rate"] == pytest.approx(1 / 3)
    assert other.token_rewards is None
    wrong = len("WRONG: 2 + 2 = 5.\n\n")
    assert other.reward == pytest.approx(2 - wrong / len(TEXT))


def test_names_of_tokenizers_are_used_where_they_are_known(
    service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    gpt2 = tokenizer("gpt2")
    ids = gpt2.encode(TEXT).ids
    found = []
    for name in ("gpt2", "another", None):
        scorer = Scorer(service.url, tokenizer=gpt2, tokenizer_name=name)
        assert scorer.by_name == (name == "gpt2")
        found += scorer.score_now([Sample("q", ids=ids, outcome=1.0)])
        scorer.close()
    assert found[0] == found[1] == found[2]
    assert "does not serve tokenizer 'another' (it has gpt2, llama2)" in caplog.text


def test_blank_rollouts_and_bad_ones_among_others(scorer: Scorer) -> None:
    samples = [
        Sample("q", ids=[], outcome=0.0),
        Sample("q", text=" \n", reference="4"),
        Sample("q", text="x" * 70_000, outcome=1.0),
        Sample([{"role": "user", "content": "q"}], text="It is 4.", reference="4"),
    ]
    blank, white, long, good = asyncio.run(scorer.score(samples))
    assert (blank.reward, blank.token_rewards, blank.source) == (0.0, [], "judge")
    assert (white.reward, white.outcome) == (0.0, 0.0)
    assert (long.reward, long.source) == (None, "none") and "60000" in (long.error or "")
    assert good.reward == 2.0
    assert scorer.counts == {"judge": 3, "none": 1}


def test_fall_backs(service: Service) -> None:
    long = Sample("q", text="x" * 70_000, outcome=0.5)
    outcome = Scorer(service.url, fallback="outcome")
    [one] = outcome.score_now([long])
    assert (one.reward, one.source, one.metrics()) == (1.0, "outcome", {"capo_fallback": 1.0})
    outcome.close()
    strict = Scorer(service.url, fallback="raise")
    with pytest.raises(CreditFailedError):
        strict.score_now([long])
    strict.close()
    with pytest.raises(ValueError, match="choose from skip, outcome, raise"):
        Scorer(service.url, fallback="zero")  # type: ignore[arg-type]


def test_a_service_that_goes_away_is_counted_not_hidden() -> None:
    def judge(prompt: str, sampling: Any) -> str:
        return '{"analysis": "", "incorrect_steps": []}'

    from pathlib import Path
    from tempfile import TemporaryDirectory

    with TemporaryDirectory() as folder:
        with serving(ScriptedEngine(judge), settings(Path(folder))) as service:
            scorer = Scorer(service.url, deadline=2)
            [before] = scorer.score_now([Sample("q", text="a", outcome=1.0)])
        [after] = scorer.score_now([Sample("q", text="a", outcome=1.0)])
        scorer.close()
    assert before.source == "judge"
    assert (after.source, after.reward) == ("none", None) and after.error


def test_mistakes_of_a_set_up_are_said_at_once(service: Service, scorer: Scorer) -> None:
    with pytest.raises(UnavailableError, match=r"no reward service at .*:9 .*CAPO_URL"):
        Scorer("http://127.0.0.1:9")
    with pytest.raises(InvalidRequestError, match="voting"):
        Scorer(service.url, voting={"m": 4})
    with pytest.raises(
        TypeError, match="unexpected keyword argument 'vooting': did you mean 'voting'"
    ):
        Scorer(service.url, vooting={"n": 4})  # type: ignore[call-arg]
    bare = Scorer(service.url)
    with pytest.raises(ValueError, match="give the policy's tokenizer"):
        bare.score_now([Sample("q", ids=[1], outcome=1.0)])
    bare.close()


def test_a_wrong_key_is_no_matter_for_a_fall_back(tmp_path: Any) -> None:
    engine = ScriptedEngine(lambda prompt, sampling: '{"incorrect_steps": []}')
    with (
        serving(engine, settings(tmp_path, api_keys=["secret"])) as service,
        pytest.raises(UnauthorizedError),
    ):
        Scorer(service.url, api_key="wrong")


def test_openrlhf_s_remote_reward_route(http: httpx.Client) -> None:
    query = ["Q?" + TEXT + "<|im_end|>", "Q?It is 4."]
    sent = {"query": query, "prompts": ["Q?"] * 2, "labels": ["5", "4"]}
    answer = http.post("/openrlhf?n=2&w_whole=4", json=sent)
    assert answer.status_code == 200
    body = answer.json()
    wrong = len("WRONG: 2 + 2 = 5.\n\n")
    assert body["rewards"] == pytest.approx([4 - wrong / len(TEXT), 4.0])
    assert body["scores"] == [1.0, 1.0]
    assert body["extra_logs"]["capo_wrong_steps"] == [1.0, 0.0]


@pytest.mark.parametrize(
    ("path", "sent", "status", "said"),
    [
        ("/openrlhf", {"query": ["a"], "prompts": []}, 422, "lists of one length"),
        ("/openrlhf", {"query": ["ab"], "prompts": ["x"], "labels": ["1"]}, 422, "its prompt"),
        ("/openrlhf", {"query": ["ab"], "prompts": ["a"]}, 422, "outcome"),
        ("/openrlhf", {"prompts": ["a"]}, 422, "query"),
        ("/openrlhf?n=0", {"query": ["a b"], "prompts": ["a"], "labels": ["1"]}, 422, "in the URL"),
        ("/openrlhf?x=1", {"query": ["a b"], "prompts": ["a"], "labels": ["1"]}, 422, "x"),
        ("/openrlhf", {"query": ["a b"] * 51, "prompts": ["a"] * 51, "labels": ["1"] * 51}, 413, "50"),
        ("/slime", {"prompt": "a", "response": "b"}, 422, "outcome"),
        ("/slime", {"prompt": "a", "response": "", "label": "1"}, 422, "response"),
        ("/slime?method=none", {"prompt": "a", "response": "b", "label": "1"}, 422, "method"),
    ],
)  # fmt: skip
def test_what_remote_clients_may_get_wrong(
    http: httpx.Client, path: str, sent: dict[str, Any], status: int, said: str
) -> None:
    answer = http.post(path, json=sent)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert said in answer.json()["detail"]


def test_slime_s_remote_reward_route(http: httpx.Client) -> None:
    chat = [{"role": "user", "content": "Q?"}]
    for prompt in ("Q?", chat):
        sent = {"prompt": prompt, "response": "It is 4.", "label": 4}
        assert http.post("/slime", json=sent).json() == 2.0
    answer = http.post("/slime?scheme=process_only", json={"prompt": "Q?", "response": "WRONG"})
    assert answer.json() == -1.0


def test_remote_requests_are_counted(http: httpx.Client) -> None:
    def count(status: str) -> float:
        text = http.get("/metrics").text
        name = f'capo_requests_total{{status="{status}"}}'
        return sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith(name))

    before = count("200"), count("422")
    http.post("/slime", json={"prompt": "Q?", "response": "It is 4.", "label": 4})
    http.post("/slime", json={"prompt": "Q?", "response": "It is 4."})
    assert (count("200"), count("422")) == (before[0] + 1, before[1] + 1)
