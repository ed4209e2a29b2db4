"""What jobs share: profiles (`extends`) and files of variables (`env_file`, --env-file)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import crun_batch
from crun_batch import InputError, Job, load_job
from crun_batch.load.job.env_file import read_env_file
from crun_batch.load.job.secrets import resolve_secrets
from crun_batch.options import RunOptions

KEY = "ak_sim_0123456789"
JOB = 'extends: gateway.yaml\nmodel: m\nprompt: {user: "{{ text }}"}\ninput: {table: rows.csv}\n'
GATEWAY = """
endpoint:
  base_url: https://gateway.example/v1
  api_key_env: TEAM_KEY
  headers: {X-Team: red}
limits: {concurrency: 7, max_attempts: 3}
prices:
  credits_per_usd: 200
  models:
    m: {currency: usd, input_per_mtok: 1, output_per_mtok: 2, cached_input_per_mtok: 0.1}
"""


def write(folder: Path, **files: str) -> Path:
    """Files by name, `_yaml` for the suffix; where the job is."""
    (folder / "rows.csv").write_text("text\na\n")
    for name, text in {"gateway_yaml": GATEWAY, "job_yaml": JOB, **files}.items():
        path = folder / name.replace("__", "/").replace("_yaml", ".yaml").replace("_toml", ".toml")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder / "job.yaml"


def mistakes(path: Path, **overrides: Any) -> list[tuple[str, int | None, str | None, str]]:
    """Of a job that is refused: the name of the file, line, key and words of each mistake."""
    with pytest.raises(InputError) as refused:
        load_job(path, **overrides)
    return [(Path(one.file or "").name, one.line, one.key, one.message) for one in refused.value.mistakes]


# --- what wins ---


def test_a_job_has_what_its_profile_says(tmp_path):
    job = load_job(write(tmp_path))
    assert "https://gateway.example/v1" == job.endpoint.base_url
    assert ("TEAM_KEY", {"X-Team": "red"}) == (job.endpoint.api_key_env, job.endpoint.headers)
    assert (7, 3) == (job.limits.concurrency, job.limits.max_attempts)
    assert 2 == job.prices.models["m"].output_per_mtok


def test_what_the_job_writes_goes_before_its_profile_key_by_key(tmp_path):
    own = "limits: {concurrency: 2}\nendpoint: {protocol: responses, headers: {X-Job: one}}\n"
    job = load_job(write(tmp_path, job_yaml=JOB + own))
    assert (2, 3) == (job.limits.concurrency, job.limits.max_attempts)
    assert ("responses", "TEAM_KEY") == (job.endpoint.protocol, job.endpoint.api_key_env)
    assert {"X-Team": "red", "X-Job": "one"} == job.endpoint.headers


def test_an_override_goes_before_both(tmp_path):
    job = load_job(
        write(tmp_path, job_yaml=JOB + "limits: {concurrency: 2}\n"), overrides={"limits.concurrency": 5}
    )
    assert 5 == job.limits.concurrency


def test_null_takes_a_key_of_the_profile_away(tmp_path):
    job = load_job(write(tmp_path, job_yaml=JOB + "limits: {concurrency: null}\n"))
    assert (64, 3) == (job.limits.concurrency, job.limits.max_attempts)


@pytest.mark.parametrize("own", ["base_url: https://other.example", "[{base_url: https://other.example}]"])
def test_no_key_of_a_profile_goes_to_an_address_of_the_job(tmp_path, own):
    """An endpoint that names its address has nothing of the profile's, neither key nor headers."""
    written = own if own.startswith("[") else f"{{{own}}}"
    job = load_job(write(tmp_path, job_yaml=f"{JOB}endpoint: {written}\n"))
    assert (None, {}, "none") == (job.endpoint.api_key_env, job.endpoint.headers, job.endpoint.auth)


def test_keys_of_the_job_are_laid_over_each_endpoint_of_a_profiles_list(tmp_path):
    listed = "endpoint:\n- {name: a, api_key_env: A}\n- {name: b, api_key_env: B}\n"
    job = load_job(write(tmp_path, gateway_yaml=listed, job_yaml=JOB + "endpoint: {stream: true}\n"))
    assert [("A", True), ("B", True)] == [
        (one.endpoint.api_key_env, one.endpoint.stream) for one in job.at_each_endpoint
    ]


def test_the_price_of_a_model_is_replaced_whole(tmp_path):
    own = "prices: {models: {m: {currency: usd, input_per_mtok: 9, output_per_mtok: 9}}}\n"
    job = load_job(write(tmp_path, job_yaml=JOB + own))
    assert (9, None, 200) == (
        job.prices.models["m"].input_per_mtok,
        job.prices.models["m"].cached_input_per_mtok,
        job.prices.credits_per_usd,
    )


def test_a_later_profile_goes_before_an_earlier_one_and_before_what_it_extends_itself(tmp_path):
    job = load_job(
        write(
            tmp_path,
            job_yaml=JOB.replace("gateway.yaml", "[one.yaml, two.yaml]"),
            one_yaml="limits: {concurrency: 1, max_attempts: 1, give_up_after_minutes: 1}\n",
            two_yaml="extends: base.yaml\nlimits: {concurrency: 2}\n",
            base_yaml="limits: {concurrency: 9, max_attempts: 9}\n",
        )
    )
    limits = job.limits
    assert (2, 9, 1.0) == (limits.concurrency, limits.max_attempts, limits.give_up_after_minutes)


levels = st.fixed_dictionaries(
    {}, optional={"concurrency": st.integers(1, 9), "max_attempts": st.integers(1, 9), "adaptive": st.booleans()}
)


@settings(deadline=None, max_examples=40)
@given(st.lists(levels, min_size=1, max_size=4))
def test_of_a_chain_the_nearest_file_that_says_a_key_wins(tmp_path_factory, chain):
    folder = tmp_path_factory.mktemp("chain")
    for number, limits in enumerate(chain[1:], 1):
        above = f"extends: p{number + 1}.yaml\n" if number + 1 < len(chain) else ""
        (folder / f"p{number}.yaml").write_text(f"{above}limits: {json.dumps(limits)}\n")
    extends = "extends: p1.yaml\n" if len(chain) > 1 else ""
    (folder / "job.yaml").write_text(
        f"{extends}model: m\nprompt: {{user: x}}\ninput: {{table: t.csv}}\nlimits: {json.dumps(chain[0])}\n"
    )
    expected: dict[str, Any] = {}
    for limits in reversed(chain):
        expected |= limits
    found = load_job(folder / "job.yaml").limits.model_dump(exclude_unset=True)
    assert expected == found


def test_python_jobs_extend_too(tmp_path):
    write(tmp_path)
    job = Job(extends="gateway.yaml", model="m", prompt={"user": "x"}, base_dir=tmp_path)
    assert 7 == job.limits.concurrency
    with pytest.raises(InputError, match="read with the job file"):
        job.with_overrides({"extends": "gateway.yaml"})


def test_set_extends_names_another_profile(tmp_path):
    path = write(tmp_path, other_yaml="limits: {concurrency: 1}\n")
    assert 1 == load_job(path, overrides={"extends": "other.yaml"}).limits.concurrency


# --- whose paths, whose mistakes ---


def test_paths_in_a_profile_are_relative_to_the_profile(tmp_path):
    shared = "endpoint: {base_url: https://g.example, api_key_file: key.txt, ca_file: ca.pem}\nenv_file: .env\n"
    path = write(
        tmp_path, job_yaml=JOB.replace("gateway.yaml", "shared/gateway.yaml"), shared__gateway_yaml=shared
    )
    (tmp_path / "shared" / "key.txt").write_text(KEY)
    (tmp_path / "shared" / ".env").write_text("A=b\n")
    job = load_job(path)
    assert KEY == resolve_secrets(job, {}).key
    assert tmp_path / "shared" / "ca.pem" == (job.base_dir / str(job.endpoint.ca_file)).resolve()


def test_paths_in_a_profile_survive_a_folder_that_is_a_link(tmp_path):
    deep = tmp_path / "real" / "deep"
    deep.mkdir(parents=True)
    (tmp_path / "link").symlink_to(deep)
    path = write(deep, job_yaml=JOB.replace("gateway.yaml", "../../gateway.yaml"))
    (tmp_path / "gateway.yaml").write_text("endpoint: {base_url: https://g.example, api_key_file: key.txt}\n")
    (tmp_path / "key.txt").write_text(KEY)
    assert KEY == resolve_secrets(load_job(tmp_path / "link" / path.name), {}).key


def test_mistakes_name_the_file_and_line_where_the_key_is_written(tmp_path):
    path = write(tmp_path, gateway_yaml="limits:\n  concurrency: many\n", job_yaml=JOB + "repeats: no\n")
    assert [
        ("job.yaml", 5, "repeats"),
        ("gateway.yaml", 2, "limits.concurrency"),
    ] == [one[:3] for one in mistakes(path)]


def test_mistakes_of_a_profile_without_lines_name_it_all_the_same(tmp_path):
    path = write(
        tmp_path, job_yaml=JOB.replace("gateway.yaml", "g.toml"), g_toml='limits = {concurrency = "many"}\n'
    )
    assert [("g.toml", None, "limits.concurrency")] == [one[:3] for one in mistakes(path)]


def test_a_missing_key_is_told_where_the_profile_names_it(tmp_path):
    with pytest.raises(InputError) as refused:
        resolve_secrets(load_job(write(tmp_path)), {})
    (one,) = refused.value.mistakes
    assert ("gateway.yaml", 4, "endpoint.api_key_env") == (Path(one.file or "").name, one.line, one.key)


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"gateway_yaml": "model: m\n"}, ("gateway.yaml", 1, "model", "has no place in a profile")),
        ({"gateway_yaml": "a: [\n"}, ("gateway.yaml", 2, None, "not readable")),
        ({"gateway_yaml": "- a\n"}, ("job.yaml", 1, "extends", "must be a mapping")),
        ({"job_yaml": "\n" + JOB.replace("gateway", "none")}, ("job.yaml", 2, "extends", "No such file")),
        ({"job_yaml": JOB.replace("gateway.yaml", "rows.csv")}, ("job.yaml", 1, "extends", "unknown suffix")),
        ({"job_yaml": JOB.replace("gateway.yaml", "{a: b}")}, ("job.yaml", 1, "extends", "must be the path")),
        (
            {"gateway_yaml": "limits: {}\nextends: two.yaml\n", "two_yaml": "extends: gateway.yaml\n"},
            ("two.yaml", 1, "extends", "extends itself: gateway.yaml -> two.yaml -> gateway.yaml"),
        ),
        (
            {f"p{n}_yaml": f"extends: [p{n + 1}.yaml, p{n + 1}.yaml]\n" for n in range(9)}
            | {"p9_yaml": "limits: {}\n", "gateway_yaml": "extends: p0.yaml\n"},
            ("p4.yaml", 1, "extends", "leads to more than 20 profiles"),
        ),
    ],
)
def test_what_is_wrong_with_a_profile_is_told_where_it_is_wrong(tmp_path, files, expected):
    found = mistakes(write(tmp_path, **files))[0]
    assert expected[1:3] == found[1:3]
    assert expected[3] in found[3]
    if expected[0] != "p4.yaml":
        assert expected[0] == found[0]


def test_an_axis_cannot_change_what_is_read_with_the_file(tmp_path):
    path = write(tmp_path, job_yaml=JOB + "sweep: {extends: [gateway.yaml, gateway.yaml]}\n")
    told = crun_batch.check(path, environ={})["mistakes"]
    assert any("cannot change extends" in one["message"] for one in told)


def test_a_profile_is_in_what_is_recorded_and_its_limits_do_not_make_another_job(tmp_path):
    """The fingerprint holds what shapes requests, wherever it is written; job.json reads back without any file."""
    path = write(tmp_path)
    job = load_job(path)
    (tmp_path / "gateway.yaml").write_text(GATEWAY.replace("concurrency: 7", "concurrency: 8"))
    assert job.request_fingerprint() == load_job(path).request_fingerprint()
    (tmp_path / "gateway.yaml").write_text(GATEWAY.replace("api_key_env", "protocol: responses\n  api_key_env"))
    assert job.request_fingerprint() != load_job(path).request_fingerprint()
    (tmp_path / "gateway.yaml").unlink()
    again = Job(**json.loads(json.dumps(job.public_dict())), base_dir=tmp_path)
    assert job.request_fingerprint() == again.request_fingerprint()
    assert 7 == again.limits.concurrency


# --- files of variables ---


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A=b", {"A": "b"}),
        ("export A = b c  # why", {"A": "b c"}),
        ('A=\'b # c\'\nB="d\\n\\"e\\$f" # g', {"A": "b # c", "B": 'd\n"e$f'}),
        ("\ufeffA=\n\n# nothing\nB= # nothing either", {"A": "", "B": ""}),
        ("A='${B}'", {"A": "${B}"}),
        ("A=b#c", {"A": "b#c"}),
        ("A=b\r\nB=c\r\n", {"A": "b", "B": "c"}),
        ("A=x=y'z", {"A": "x=y'z"}),
    ],
)
def test_lines_of_a_file_of_variables(tmp_path, text, expected):
    path = tmp_path / ".env"
    path.write_bytes(text.encode())
    assert expected == dict(read_env_file(path))


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ("A=b\nhello", 2, "no NAME=value"),
        ("A=b\n\nA=c", 3, "stands in line 1 too"),
        ("A='s3cret", 1, "no closing quote"),
        ("A='s3cret' x", 1, "something stands after it"),
        ("A=s3cret${B}", 1, "no variable is filled in"),
        ('A="s3cret${B}"', 1, "no variable is filled in"),
        ("1A=b", 1, "no NAME=value"),
        ("A=b\0", None, "zero byte"),
    ],
)
def test_a_wrong_line_is_told_by_its_number_and_never_by_its_value(tmp_path, text, line, says):
    path = tmp_path / ".env"
    path.write_text(text)
    with pytest.raises(InputError) as refused:
        read_env_file(path)
    (one,) = refused.value.mistakes
    assert (str(path), line) == (one.file, one.line)
    assert says in one.message
    assert "s3cret" not in str(refused.value)


@settings(deadline=None, max_examples=60)
@given(st.dictionaries(st.sampled_from(["A", "B_2", "_c", "NAME"]), st.text(max_size=30)))
def test_what_is_quoted_is_read_back(tmp_path_factory, variables):
    """Any text without a zero byte or a line break in the file stands in double quotes."""
    path = tmp_path_factory.mktemp("env") / ".env"
    kept = {name: text.replace("\0", "") for name, text in variables.items()}
    kept = {name: text.encode(errors="ignore").decode() for name, text in kept.items()}
    escapes = {"\\": "\\\\", '"': '\\"', "$": "\\$", "\n": "\\n", "\r": "\\r"}
    lines = [f'{name}="{"".join(escapes.get(one, one) for one in text)}"' for name, text in kept.items()]
    path.write_bytes("\n".join(lines).encode())
    assert kept == dict(read_env_file(path))


def test_the_environment_goes_before_the_option_and_that_before_the_key(tmp_path):
    path = write(tmp_path, job_yaml=f"{JOB}env_file: .env\n")
    (tmp_path / ".env").write_text("TEAM_KEY=of-the-key\nCRUN_BASE_URL=https://unused.example\n")
    (tmp_path / "other.env").write_text("TEAM_KEY=of-the-option\n")
    job = load_job(path)
    option = RunOptions(env_file=tmp_path / "other.env", environ={}).environ
    both = RunOptions(env_file=tmp_path / "other.env", environ={"TEAM_KEY": "of-the-process"}).environ
    keys = [resolve_secrets(job, environ).key for environ in ({}, option, both)]
    assert ["of-the-key", "of-the-option", "of-the-process"] == keys


def test_no_file_of_variables_is_read_unasked(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = write(tmp_path)
    (tmp_path / ".env").write_text("TEAM_KEY=x\n")
    with pytest.raises(InputError, match="TEAM_KEY is not set"):
        resolve_secrets(load_job(path), {})


def test_the_default_address_may_stand_in_the_file(tmp_path):
    path = write(tmp_path, job_yaml=JOB.replace("extends: gateway.yaml", "env_file: .env"))
    (tmp_path / ".env").write_text("CRUN_BASE_URL=https://here.example/v1\nCRUN_API_KEY=k\n")
    job = load_job(path)
    assert ("https://here.example/v1", "k") == (job.endpoint.base_url, resolve_secrets(job, {}).key)


def test_a_judge_finds_its_key_there_too(tmp_path):
    judge = {
        "name": "s",
        "grader": "judge",
        "model": "j",
        "prompt": {"user": "{{ output_text }}"},
        "endpoint": {"base_url": "https://j.x", "api_key_env": "J"},
    }
    score = f"score: {json.dumps([judge])}\n"
    path = write(tmp_path, job_yaml=f"{JOB}env_file: .env\n{score}")
    (tmp_path / ".env").write_text("TEAM_KEY=x\nJ=y\n")
    document = crun_batch.check(path, environ={})
    assert [] == document["mistakes"]
    assert not [one for one in document["warnings"] if "the variable" in one]


def test_a_file_that_is_not_there_is_told_where_it_is_named_and_only_where_keys_are_needed(tmp_path):
    path = write(tmp_path, job_yaml=f"{JOB}env_file: .env\n")
    job = load_job(path)
    with pytest.raises(InputError) as refused:
        resolve_secrets(job, {"TEAM_KEY": "x"})
    (one,) = refused.value.mistakes
    assert (5, "env_file") == (one.line, one.key)
    assert "No such file" in one.message


def test_no_value_of_the_file_is_in_the_job_or_its_repr(tmp_path):
    path = write(tmp_path, job_yaml=f"{JOB}env_file: .env\n")
    (tmp_path / ".env").write_text(f"TEAM_KEY={KEY}\n")
    job = load_job(path)
    shown = f"{job!r} {job.document!r} {job.public_dict()} {read_env_file(tmp_path / '.env')!r}"
    assert KEY not in shown
    assert KEY not in repr(RunOptions(env_file=tmp_path / ".env", environ={}))
