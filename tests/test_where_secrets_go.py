"""Who did not write a job sees, before anything is sent, which of his secrets it sends to whom."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from run_kit import job, simulator, texts

import crun_batch
from crun_batch.cli.commands import main

ENVIRON = {"SIM_KEY": "ak_sim_test", "DATABASE_PASSWORD": "hunter2-hunter2", "TEAM": "blue-blue-blue"}
HEADERS = {"X-Trace": "a ${DATABASE_PASSWORD} b ${TEAM}", "X-Title": "plain words"}


@pytest.fixture(scope="module")
def at():
    with simulator() as process:
        yield process


def judged(at: Any, folder: Path) -> crun_batch.Job:
    """A job with headers, two variants at two addresses, and a judge at another with its key in a file."""
    (folder / "judge.key").write_text("ak_sim_judge_0123456789")
    other = at.base_url.replace("127.0.0.1", "localhost")
    endpoint = {"base_url": other, "auth": "bearer", "api_key_file": str(folder / "judge.key")}
    judge = {"name": "good", "grader": "judge", "model": "gpt-5.4", "prompt": {"user": "{{ output_text }}"}}
    judge |= {"scale": [0, 1], "endpoint": endpoint, "params": {"max_output_tokens": 20}}
    return job(at, folder, endpoint={"headers": HEADERS}, score=[judge], budget={"credits": "off"})


def expected(at: Any, folder: Path) -> list[dict[str, str]]:
    other = at.base_url.replace("127.0.0.1", "localhost")
    return [
        {"name": "SIM_KEY", "as": "key", "base_url": at.base_url},
        {"name": "DATABASE_PASSWORD", "as": "header X-Trace", "base_url": at.base_url},
        {"name": "TEAM", "as": "header X-Trace", "base_url": at.base_url},
        {"name": str(folder / "judge.key"), "as": "key", "base_url": other},
    ]


def test_before_the_first_call_each_secret_and_its_address_are_said(at, tmp_path):
    """By run and estimate; the judge's too. No call was made when the sentence comes: each carries the key."""
    said: list[tuple[str, int]] = []

    def say(sentence: str) -> None:
        said.append((sentence, sum(at.stats()["paths"].values())))

    made, before = judged(at, tmp_path), sum(at.stats()["paths"].values())
    with pytest.raises(crun_batch.RefusedToStart, match="not confirmed"):
        crun_batch.run(made, table=texts(2), environ=ENVIRON, say=say, confirm=lambda _: False)
    here, there = {one["base_url"]: None for one in expected(at, tmp_path)}
    first = f"secrets: SIM_KEY (key), DATABASE_PASSWORD (header X-Trace), TEAM (header X-Trace) go to {here}"
    second = f"secrets: {tmp_path / 'judge.key'} (key) goes to {there}"
    assert [(first, before), (second, before)] == said[:2]
    said.clear()
    document = crun_batch.estimate(made, table=texts(2), environ=ENVIRON, say=say)
    assert [first, second] == [sentence for sentence, _ in said[:2]]
    assert expected(at, tmp_path) == document["secrets"]
    assert [] == [value for value in ENVIRON.values() if value in json.dumps([document, said])]


def test_each_endpoint_of_a_list_is_named(at, tmp_path):
    """In what check says, in what run says before the first call, and in the estimate's document."""
    (tmp_path / "t.csv").write_text("id,text\na,b\n")
    other = at.base_url.replace("127.0.0.1", "localhost")
    endpoints = [{"base_url": at.base_url, "api_key_env": "SIM_KEY"}, {"base_url": other, "api_key_env": "TEAM"}]
    keys = {"model": "gpt-5.4", "prompt": {"user": "{{ text }}"}, "budget": {"credits": "off"}}
    made = crun_batch.Job(endpoint=endpoints, input={"table": str(tmp_path / "t.csv"), "id": "id"}, **keys)
    said: list[str] = []
    wanted = [
        {"name": "SIM_KEY", "as": "key", "base_url": at.base_url},
        {"name": "TEAM", "as": "key", "base_url": other},
    ]
    environ = {**ENVIRON, "TEAM": "ak_sim_team"}
    assert wanted == crun_batch.check(made, environ=environ)["secrets"]
    assert wanted == crun_batch.estimate(made, environ=environ, say=said.append)["secrets"]
    assert [f"secrets: SIM_KEY (key) goes to {at.base_url}", f"secrets: TEAM (key) goes to {other}"] == said[:2]


def test_a_simulated_run_sends_none(at, tmp_path):
    asked: list[Any] = []
    said: list[str] = []
    made = judged(at, tmp_path)
    crun_batch.run(
        made, table=texts(2), simulate=True, confirm=lambda each: not asked.append(each), say=said.append
    )
    assert [] == asked[0]["secrets"] == [sentence for sentence in said if "secrets" in sentence]


def test_a_job_without_a_key_sends_none(tmp_path):
    """`auth: none`, and an address that is not the default one without a key."""
    (tmp_path / "t.csv").write_text("text\na\n")
    keys = {"input": {"table": str(tmp_path / "t.csv")}, "model": "m", "prompt": {"user": "{{ text }}"}}
    for endpoint in ({"auth": "none"}, {"base_url": "http://127.0.0.1:9/v1"}):
        assert [] == crun_batch.check(crun_batch.Job(endpoint=endpoint, **keys))["secrets"]


def test_check_says_it_in_words_without_a_value(tmp_path, capsys, monkeypatch):
    (tmp_path / "t.csv").write_text("text\na\n")
    (tmp_path / "job.yaml").write_text(
        "input: {table: t.csv}\nmodel: m\nprompt: {user: '{{ text }}'}\n"
        "endpoint: {base_url: 'https://elsewhere.test/v1', api_key_env: DATABASE_PASSWORD,"
        " headers: {X-Team: '${TEAM}'}}\n"
    )
    for name, value in ENVIRON.items():
        monkeypatch.setenv(name, value)
    assert 0 == main(["check", str(tmp_path / "job.yaml")])
    said = capsys.readouterr()
    sentence = "secrets: DATABASE_PASSWORD (key), TEAM (header X-Team) go to https://elsewhere.test/v1"
    assert sentence in said.out.splitlines()
    assert [] == [value for value in ENVIRON.values() if value in said.out + said.err]


def test_check_names_a_grader_s_code_without_running_it_and_run_tells_its_line(tmp_path, capsys):
    """A stranger's job is checked before anything of it runs."""
    (tmp_path / "t.csv").write_text("text\na\n")
    (tmp_path / "mine.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\ndef grade(answer): return 1\n")
    (tmp_path / "job.yaml").write_text(
        "input: {table: t.csv}\nmodel: m\nprompt: {user: '{{ text }}'}\nendpoint: {auth: none}\n"
        "score:\n  - {name: good, grader: python, function: 'mine:grade'}\n"
    )
    assert 0 == main(["check", str(tmp_path / "job.yaml")])
    said = "score good: mine:grade is code, which a run imports and check does not"
    assert said in capsys.readouterr().out.splitlines()
    assert not (tmp_path / "ran").exists()
    assert 2 == main(["run", str(tmp_path / "job.yaml"), "--simulate", "--output-dir", str(tmp_path / "run")])
    assert f"{tmp_path / 'job.yaml'}:6, score[0]: " in capsys.readouterr().err
