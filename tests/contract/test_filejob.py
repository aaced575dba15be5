"""Files of rollouts as users bring them: encodings, ids, places to write to, another judge."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from capo_client import CreditClient
from capo_client.cli.file_job import FileJob, FileJobError
from capo_service.scheduling.api_keys import make_key
from kit_scripted import ScriptedEngine
from kit_service import Service, serving, settings

DEAD = "http://127.0.0.1:9"


def capo_credit(*arguments: object, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "capo_client", "credit", *map(str, arguments)],
        **{"capture_output": True, "text": True, "timeout": 60, "check": False, **options},
    )  # type: ignore[call-overload]


def records(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text("utf-8").split("\n") if line]


def rollout(number: int, **more: object) -> dict[str, object]:
    return {"question": "q", "response": f"a\n\nb {number}", "outcome": 1, **more}


def jsonl(*rollouts: object) -> str:
    texts = (r if isinstance(r, str) else json.dumps(r, ensure_ascii=False) for r in rollouts)
    return "".join(text + "\n" for text in texts)


def says_in_one_line(done: subprocess.CompletedProcess[str], *words: str) -> bool:
    assert done.returncode == 2, done.stderr
    said = done.stderr.strip()
    assert "\n" not in said and said.startswith("capo credit: "), said
    return all(word in said for word in words)


@pytest.mark.parametrize("end", ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c", "\x1e"])
def test_only_a_newline_ends_a_line(service: Service, tmp_path: Path, end: str) -> None:
    """In the input, in what is resumed, and in the ids that results carry."""
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    escaped = json.dumps(end)[1:-1] if end < " " else end  # control characters must be escaped
    first, second = (rollout(n, id=f"r{n}\x00").copy() for n in (1, 2))
    texts = [json.dumps(each, ensure_ascii=False) for each in (first, second)]
    source.write_text(jsonl(*(text.replace("\\u0000", escaped) for text in texts)), "utf-8")
    options = {"include": ["token_rewards", "critiques"]}
    with CreditClient(service.url) as client:
        FileJob(source, out, options).run(client)
        kept = out.read_text("utf-8").split("\n")[0] + "\n"
        out.write_text(kept, "utf-8")  # the second is still to do
        job = FileJob(source, out, options)
        assert job.missing == [2]
        job.run(client)
    assert [(r["line"], r["id"]) for r in records(out)] == [(1, f"r1{end}"), (2, f"r2{end}")]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_files_of_other_programs_are_read(
    service: Service, tmp_path: Path, encoding: str, newline: str
) -> None:
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    text = jsonl(rollout(1, id="ä"), rollout(2)).replace("\n", newline)
    source.write_bytes(text.encode(encoding))
    job = FileJob(source, out)
    with CreditClient(service.url) as client:
        job.run(client)
    assert [r["status"] for r in records(out)] == ["ok", "ok"] and job.errors == set()
    assert records(out)[0]["id"] == "ä"


def test_joined_files_have_marks_inside(service: Service, tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl"
    one = jsonl(rollout(1)).encode("utf-8-sig")
    source.write_bytes(one + jsonl(rollout(2)).encode("utf-8-sig") + b'{"question": "\xff"}\n')
    job = FileJob(source, tmp_path / "out.jsonl")
    with CreditClient(service.url) as client:
        job.run(client)
    assert job.errors == {3}, "a line that is no UTF-8 is an error in its place"


def test_ids_are_unique_over_windows_and_runs(service: Service, tmp_path: Path) -> None:
    """Also where other lines bring plain numbers, no JSON, or an id that is none."""
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    brought = [rollout(n, id=str(n)) for n in range(6)]
    without = [rollout(n) for n in range(20)]
    odd = [rollout(1, id=7), rollout(2, id=None), "{torn", "[]"]
    source.write_text(jsonl(*without[:9], *brought, *odd, *without[9:]))
    with CreditClient(service.url, batch_size=1, concurrency=1) as client:  # windows of four
        FileJob(source, out).run(client)
        whole = records(out)
        out.write_text("".join(json.dumps(r) + "\n" for r in whole[::2]))
        FileJob(source, out).run(client)
    found = records(out)
    assert len(found) == 30 and found == whole
    assert len({r["id"] for r in found}) == 30
    assert found[0]["id"] == "line-1" and found[9]["id"] == "0" and found[29]["id"] == "line-30"


def test_an_id_may_hold_what_is_no_unicode(service: Service, tmp_path: Path) -> None:
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text('{"id": "\\ud800", "question": "q", "response": "a", "outcome": 1}\n')
    with CreditClient(service.url) as client:
        FileJob(source, out).run(client)
        FileJob(source, out).run(client)
    assert records(out)[0]["id"] == "\ud800"


def test_a_missing_folder_is_made(service: Service, tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl"
    source.write_text(jsonl(rollout(1)))
    out = tmp_path / "run 7" / "credit" / "out.jsonl"
    done = capo_credit(source, "--out", out, "--url", service.url)
    assert done.returncode == 0 and len(records(out)) == 1, done.stderr


def test_a_link_stays_a_link(service: Service, tmp_path: Path) -> None:
    source, out, real = tmp_path / "in.jsonl", tmp_path / "out.jsonl", tmp_path / "real.jsonl"
    source.write_text(jsonl(rollout(1)))
    out.symlink_to(real)
    with CreditClient(service.url) as client:
        FileJob(source, out).run(client)
    assert out.is_symlink() and len(records(real)) == 1


def test_places_that_results_cannot_go_to_are_refused(tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl"
    source.write_text(jsonl(rollout(1)))
    folder = tmp_path / "folder"
    folder.mkdir()
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    a_file = tmp_path / "file"
    a_file.write_text("")
    for out, word in [
        (folder, "is a folder"),
        ("/dev/stdout", "not a regular file"),
        ("/dev/null", "not a regular file"),
        (pipe, "not a regular file"),
        (a_file / "out.jsonl", "cannot be written"),
        (source, "is the input itself"),
    ]:
        done = capo_credit(source, "--out", out, "--url", DEAD)
        assert says_in_one_line(done, str(out), word), done.stderr
    with (tmp_path / "said").open("w") as said:
        done = capo_credit(
            source,
            "--out",
            "/dev/stdout",
            "--url",
            DEAD,
            capture_output=False,
            stdout=said,
            stderr=subprocess.PIPE,
        )
    assert says_in_one_line(done, "not a regular file")
    assert source.read_text() == jsonl(rollout(1))


def test_input_may_come_from_a_pipe(service: Service, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    done = capo_credit(
        "/dev/stdin", "--out", out, "--url", service.url, input=jsonl(rollout(1), rollout(2))
    )
    assert done.returncode == 0 and len(records(out)) == 2, done.stderr


@pytest.mark.parametrize(
    "text", ['{"my": "data"}', "a note", '{"line": 1}\n', "\x89PNG\r\n\x1a\n\xff", "[1, 2]\n"]
)
def test_a_file_of_somebody_else_is_left_alone(tmp_path: Path, text: str) -> None:
    source, out = tmp_path / "in.jsonl", tmp_path / "out"
    source.write_text(jsonl(rollout(1)))
    out.write_bytes(text.encode("latin-1"))
    with pytest.raises(FileJobError, match="did not write"):
        FileJob(source, out)
    assert out.read_bytes() == text.encode("latin-1")


def test_a_full_disk_is_told(tmp_path: Path, service: Service) -> None:
    source = tmp_path / "in.jsonl"
    source.write_text(jsonl(rollout(1)))
    job = FileJob(source, tmp_path / "out.jsonl")
    job._file = Path("/dev/full")
    with (
        CreditClient(service.url) as client,
        pytest.raises(FileJobError, match="cannot be written: No space left"),
    ):
        job.run(client)


@pytest.mark.parametrize(
    "other",
    [
        {"critique_style": "full"},
        {"critique_format": "tag"},
        {"symbolic_votes": 2},
        {"template": True},
        {"engine_args": {"quantization": "fp8"}},
    ],
)
def test_another_judge_never_goes_on_with_the_first_ones_results(
    tmp_path: Path, other: dict[str, object]
) -> None:
    """Neither where something is still to do, nor where all is done."""
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text(jsonl(rollout(1), "{torn", rollout(2)))
    if "template" in other:
        import capo_service

        mine = tmp_path / "mine.j2"
        built_in = Path(capo_service.__file__).parent / "judges" / "default" / "prompt.j2"
        mine.write_text(built_in.read_text() + "\n")
        other = {"template": mine}
    engine = ScriptedEngine()
    with serving(ScriptedEngine(), settings(tmp_path)) as service, CreditClient(service.url) as c:
        FileJob(source, out).run(c)
        lines = out.read_text()
    with (
        serving(engine, settings(tmp_path, **other)) as service,
        CreditClient(service.url) as client,
    ):
        for kept in (lines, lines[: lines.index("\n") + 1]):
            out.write_text(kept)
            with pytest.raises(FileJobError, match="contains results of the judge 'scripted scri"):
                FileJob(source, out).run(client)
            assert out.read_text() == kept and engine.prompts == []


def test_the_same_judge_goes_on_after_a_restart(tmp_path: Path) -> None:
    """Also on a machine with less memory, and where all is done without any service."""
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text(jsonl(rollout(1), rollout(2)))
    for arguments in ({}, {"max_num_seqs": 8, "gpu_memory_utilization": 0.5}):
        with (
            serving(ScriptedEngine(), settings(tmp_path, engine_args=arguments)) as service,
            CreditClient(service.url) as client,
        ):
            FileJob(source, out).run(client)
        whole = records(out)
        assert [r["status"] for r in whole] == ["ok", "ok"]
        out.write_text(json.dumps(whole[0]) + "\n")
    out.write_text("".join(json.dumps(r) + "\n" for r in whole))
    with CreditClient(DEAD) as client:
        FileJob(source, out).run(client)


def test_a_judge_that_changes_during_a_job_stops_it(
    service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text(jsonl(*map(rollout, range(12))))
    with CreditClient(service.url, batch_size=1, concurrency=1) as client:  # windows of four
        now = client.info()
        later = now.model_copy(update={"judge_digest": "another"})
        told = iter([now, now, later])
        monkeypatch.setattr(client, "info", lambda: next(told))
        with pytest.raises(FileJobError, match="contains results of the judge"):
            FileJob(source, out).run(client)
    assert [record["line"] for record in records(out)] == list(range(1, 9))


def test_a_key_that_may_not_see_the_judge_may_credit_files(tmp_path: Path) -> None:
    value, entry = make_key("team")
    keys = tmp_path / "keys.toml"
    keys.write_text(entry.replace('"credit", "info"', '"credit"'))
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text(jsonl(rollout(1), rollout(2)))
    with (
        serving(ScriptedEngine(), settings(tmp_path, api_keys_file=keys)) as service,
        CreditClient(service.url, api_key=value) as client,
    ):
        FileJob(source, out).run(client)
        out.write_text(out.read_text().split("\n")[0] + "\n")
        FileJob(source, out).run(client)
    assert [(r["status"], r.get("judge")) for r in records(out)] == [("ok", None)] * 2
