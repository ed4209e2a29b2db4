"""What people do by mistake: too little memory or room, closed streams, odd paths, moved runs, two hosts."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import polars as pl
import pytest
from run_kit import ENVIRON, job, run, simulator, texts, wait_until
from store_kit import ManualSyncer, answer, end, open_run, start

import crun_batch
from crun_batch.errors import DiskFailed, InputError, RunDamaged, RunInUse
from crun_batch.store.journal import create_journal
from crun_batch.store.recover import recover

FEW = 12


@pytest.fixture(scope="module")
def gateway():
    with simulator(latency_seconds=0.0, output_tokens_median=5, output_tokens_sigma=0) as process:
        yield process


@pytest.fixture
def job_file(gateway, tmp_path, monkeypatch):
    """A job in the current directory whose run is `run`; the key is in the environment."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SIM_KEY", ENVIRON["SIM_KEY"])
    texts(FEW).write_csv("rows.csv")
    Path("job.yaml").write_text(
        f"input: {{table: rows.csv, id: id}}\nendpoint: {{base_url: '{gateway.base_url}', api_key_env: SIM_KEY}}\n"
        "model: gpt-5.4\nprompt: {user: '{{ text }}'}\nparams: {max_output_tokens: 20}\noutput: {dir: run}\n"
        "prices: {models: {gpt-5.4: {currency: credits, input_per_mtok: 500, output_per_mtok: 3000}}}\n"
    )
    return tmp_path


def shell(words, **fields):
    """A command line through the shell; exit code, standard output, standard error."""
    text = words.replace("crun-batch", f"{sys.executable} -m crun_batch")
    done = subprocess.run(text, shell=True, executable="/bin/bash", capture_output=True, text=True, **fields)
    return done.returncode, done.stdout, done.stderr


# Memory and streams


@pytest.mark.parametrize("kibibytes", [400_000, 2_000_000])
def test_too_little_address_space_is_refused_before_any_library_falls_over_it(job_file, kibibytes):
    """`ulimit -v`: exit 3 and what to do, where jemalloc, OpenBLAS or Rust would abort."""
    code, _, err = shell(f"ulimit -v {kibibytes}; crun-batch run job.yaml --yes")
    assert 3 == code, err
    assert "ulimit -v unlimited" in err
    assert not Path("run").exists()


@pytest.mark.parametrize("streams", [">/dev/full 2>/dev/full", "<&- >&- 2>&-"])
def test_a_run_whose_report_nobody_takes_exits_as_it_did(job_file, streams):
    """What is done is done: 0 the first time, and when there is nothing left to do."""
    assert [0, 0] == [shell(f"crun-batch run job.yaml --yes {streams}")[0] for _ in range(2)]
    assert FEW == crun_batch.open_run("run").results().collect().height


@pytest.mark.parametrize("words", ["run job.yaml --yes --json", "check job.yaml"])
@pytest.mark.parametrize("stream", [">&-", ">/dev/full"])
def test_an_answer_that_nobody_takes_is_no_success_and_no_bug(job_file, words, stream):
    """Exit 7 where the document itself is what was asked for; a complaint in words, no traceback."""
    code, _, err = shell(f"crun-batch {words} {stream}")
    assert (7, False) == (code, "Traceback" in err), err
    assert "standard output" in err


# Paths

LONG = "x" * 256
ODD = ["ру́н 🤖", "ü" * 127, "a*[b]?", "it's a 'run' %s {x} $HOME", "new\nline\x1b[31m", "/".join(["y" * 250] * 12)]


@pytest.mark.parametrize("name", ODD)
def test_a_run_may_have_any_name_that_the_file_system_takes(gateway, tmp_path, name, monkeypatch):
    """Unicode, quotes, patterns, control characters, thousands of characters: run, read, verified, exported."""
    monkeypatch.chdir(tmp_path)
    done = run(job(gateway, tmp_path, output={"dir": name}), texts(FEW))
    assert FEW == done.results().collect().height == crun_batch.open_run(name).results().collect().height
    assert [] == crun_batch.verify(name, data=True)
    assert FEW == done.export("csv", tmp_path / "out.csv") == done.export("csv", tmp_path / "x.csv", where="1 = 1")
    assert [{"n": FEW}] == done.sql("select count(*) as n from results").to_pylist()


@pytest.mark.skipif(sys.prefix == sys.base_prefix, reason="no Python here that lacks the packages")
def test_packages_that_a_script_has_put_on_its_path_are_found_by_all_processes_of_a_run(job_file):
    """A zipped application, or a folder of packages: the simulator and the workers had found nothing."""
    program = f"import sys; sys.path += {sys.path!r}; import crun_batch\n"
    program += "print(crun_batch.run('job.yaml', simulate=True, workers=2).status)"
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    bare = [str(Path(sys.base_prefix) / "bin" / "python3"), "-S", "-c", program]
    done = subprocess.run(bare, capture_output=True, text=True, env=environ, check=False)
    assert (0, "finished\n") == (done.returncode, done.stdout), done.stderr


def test_a_folder_with_files_named_like_modules_is_like_any_other(job_file, monkeypatch):
    """Nor do warnings that are errors stop the simulator: what other processes of a run load, it decides."""
    for name in ("typing", "random", "queue", "polars"):
        Path(f"{name}.py").write_text("raise SystemExit('this is no module of Python')")
    monkeypatch.setenv("PYTHONWARNINGS", "error")
    done = crun_batch.run("job.yaml", simulate=True, workers=2, handle_signals=False)
    assert ("finished", FEW) == (done.status, done.results().collect().height)


@pytest.mark.parametrize("name", [LONG, "/".join(["y" * 250] * 17)])
def test_a_name_that_the_file_system_does_not_take_is_a_mistake_of_the_input(gateway, tmp_path, name, monkeypatch):
    """Exit 2 with the name, shortened; from Python an InputError."""
    monkeypatch.chdir(tmp_path)
    for attempt in (
        lambda: run(job(gateway, tmp_path, output={"dir": name}), texts(1)),
        lambda: crun_batch.verify(name),
        lambda: crun_batch.open_run(name),
        lambda: crun_batch.status(name),
    ):
        with pytest.raises(InputError, match="name too long") as told:
            attempt()
        assert len(str(told.value)) < 250
    for words in ("verify", "status", "report"):
        code, _, err = shell(f"crun-batch {words} {name}")
        assert (2, False) == (code, "bug" in err), err


# Rooms that are full, read-only, or somebody else's


def mounted(place, options):
    """A file system of its own; needs root."""
    place.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", options, "none", str(place)]
    if os.geteuid() or subprocess.run(words, capture_output=True, check=False).returncode:
        pytest.skip("mounting a file system needs root")


@pytest.fixture
def full(tmp_path):
    place = tmp_path / "full"
    mounted(place, "size=64k")
    (place / "fill").write_bytes(bytes(65_536))
    yield place
    subprocess.run(["umount", str(place)], check=True)


@pytest.fixture
def read_only(tmp_path):
    place = tmp_path / "read-only"
    mounted(place, "ro")
    yield place
    subprocess.run(["umount", str(place)], check=True)


@pytest.mark.parametrize("kind", ["full", "read_only"])
def test_a_temporary_folder_that_takes_nothing_is_not_needed(job_file, request, kind):
    """Runs, reports, queries and checks go without /tmp."""
    there = {**os.environ, "TMPDIR": str(request.getfixturevalue(kind))}
    for words in (
        "run job.yaml --yes",
        "report run",
        "sql run 'select count(*) from results'",
        "verify run --data",
    ):
        code, _, err = shell(f"crun-batch {words}", env=there)
        assert 0 == code, (words, err)


@pytest.mark.parametrize("kind", ["full", "read_only"])
def test_a_place_that_takes_no_file_is_told_by_exit_7(job_file, request, kind):
    place = request.getfixturevalue(kind)
    code, _, err = shell(f"crun-batch run job.yaml --yes --output-dir {place}/run")
    assert (7, False) == (code, "bug" in err), err
    assert 0 == shell("crun-batch run job.yaml --yes")[0]
    code, _, err = shell(f"crun-batch export run --format csv --output {place}/out.csv")
    assert (7, False) == (code, "bug" in err), err


def as_nobody(action):
    """Do it in a process that may only do what everybody may; what it raised, or None."""
    told, tell = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.setgroups([])
            os.setgid(65_534)
            os.setuid(65_534)
            action()
            text = "nothing"
        except BaseException as error:  # noqa: BLE001 - told to the parent
            text = f"{type(error).__name__}: {error}"
        os.write(tell, text.encode())
        os._exit(0)
    os.close(tell)
    os.waitpid(pid, 0)
    with os.fdopen(told) as file:
        return file.read()


@pytest.mark.skipif(os.geteuid() != 0, reason="becoming somebody else needs root")
def test_another_user_is_told_that_the_run_is_not_theirs(tmp_path):
    """No permission to read or to write is said with the path: DiskFailed, not a traceback."""
    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_uid == 0 and folder != Path("/"):
            folder.chmod(folder.stat().st_mode | 0o055)
    directory = open_run(tmp_path / "closed" / "run")
    create_journal(directory, None, syncer=ManualSyncer()).close()
    directory.close()
    (tmp_path / "closed").chmod(0o700)
    assert "Permission denied" in as_nobody(lambda: crun_batch.verify(tmp_path / "closed" / "run"))
    assert as_nobody(lambda: crun_batch.verify(tmp_path / "closed" / "run")).startswith("DiskFailed")
    assert as_nobody(lambda: open_run(tmp_path / "closed" / "run")).startswith(("DiskFailed", "PermissionError"))


def test_an_export_onto_a_file_that_is_being_read_leaves_the_reader_its_own(gateway, tmp_path):
    """Whoever has the former file open reads it to its end; the name has the new one, whole."""
    done = run(job(gateway, tmp_path), texts(FEW))
    target = tmp_path / "out.csv"
    target.write_text("former\n" * 1000)
    with target.open() as reader:
        assert "former\n" == reader.readline()
        assert FEW == done.export("csv", target)
        assert ["former\n"] * 999 == reader.readlines()
    assert FEW == pl.read_csv(target).height


# Directories that move, and two hosts


def running(gateway_slow, folder, rows):
    """A run in a thread: its outcome, a Run or what it raised, comes into the list."""
    outcome = []

    def go():
        try:
            outcome.append(
                run(job(gateway_slow, folder, limits={"concurrency": 8, "adaptive": False}), texts(rows))
            )
        except Exception as error:  # noqa: BLE001 - looked at by the test
            outcome.append(error)

    thread = threading.Thread(target=go)
    thread.start()
    return thread, outcome


@pytest.mark.parametrize("goes_away", ["moved", "deleted"])
def test_a_run_directory_that_goes_away_stops_the_sending_at_once(tmp_path, goes_away):
    """At most the requests in flight, and those of one sync interval, are sent after it; exit 7 says why."""
    with simulator(latency_seconds=0.3, latency_sigma=0) as slow:
        thread, outcome = running(slow, tmp_path, 400)
        wait_until(lambda: slow.ledger()["count"] >= 16)
        before = slow.ledger()["count"]
        (tmp_path / "run").rename(tmp_path / "elsewhere")
        if goes_away == "deleted":
            shutil.rmtree(tmp_path / "elsewhere")
        thread.join()
        after = slow.ledger()["count"]
        assert isinstance(outcome[0], DiskFailed), outcome
        assert "moved, replaced or deleted" in str(outcome[0])
        assert after - before <= 3 * 8, "in flight then, in flight when it was seen, and some that had just ended"
        assert not (tmp_path / "run").exists()
        if goes_away == "moved":
            slow.change(latency_seconds=0)
            done = run(job(slow, tmp_path, output={"dir": str(tmp_path / "elsewhere")}), texts(400))
            attempts = done.attempts().collect()
            assert {"done"} == set(attempts["outcome"]), "every reply in flight was kept where the run is now"
            assert 400 == attempts.height == slow.ledger()["count"]


def test_a_second_host_is_seen_where_the_file_system_keeps_no_lock_between_hosts(tmp_path, monkeypatch):
    """Two hosts on one network directory, locks kept to each: the first stops and leaves it to the second."""
    first = open_run(tmp_path / "run")
    journal = create_journal(first, None, syncer=ManualSyncer())
    answer(journal)
    flying = next(journal.serials)
    journal.append_starts([start(flying)])
    journal.sync()
    monkeypatch.setattr("fcntl.flock", lambda descriptor, how: None)
    monkeypatch.setattr("socket.gethostname", lambda: "the-other")
    second = open_run(tmp_path / "run")
    recovered = recover(second)
    content = second.segment(1).read_bytes()
    journal.sync()
    with pytest.raises(RunInUse, match=r"opened by process .* on the-other"):
        journal.append_starts([start(next(journal.serials))])
    with pytest.raises(RunInUse):
        journal.append_ends([end(flying)])
    with pytest.raises(RunInUse):
        journal.close()
    first.close()
    assert content == second.segment(1).read_bytes()
    assert [flying] == [event.n for event in recovered.in_flight]
    second.check_in_place()
    second.close()


# Files of a run that are gone, or spoilt


def ended(gateway, folder):
    """A run that is done, and its job: what is recorded there is paid."""
    of = job(gateway, folder, output={"dir": str(folder / "run")})
    assert 0 == run(of, texts(FEW)).exit_code
    return of


@pytest.mark.parametrize("kind", ["attempts", "journal/parts"])
def test_rows_whose_files_are_gone_are_not_paid_again(gateway, tmp_path, kind):
    """Deleted by hand, or left out by a copy: the next start names them, and sends nothing."""
    of = ended(gateway, tmp_path)
    (file,) = (tmp_path / "run" / kind).glob("*.parquet")
    file.unlink()
    before = gateway.ledger()["count"]
    with pytest.raises(RunDamaged, match=f"run: {kind}/{file.name}: missing, and what is recorded there is paid"):
        run(of, texts(FEW))
    assert before == gateway.ledger()["count"]


def without_its_footer(data):
    """Its length is there, what it says is not."""
    length = int.from_bytes(data[-8:-4], "little")
    return data[: -8 - length] + b"\xff" * length + data[-8:]


@pytest.mark.parametrize("damage", [lambda data: data[:100], without_its_footer])
def test_a_spoilt_file_is_damage_to_whoever_reads_it(gateway, tmp_path, damage):
    """A report, the rows, a query: exit code 6 and who says which file it is; no bug of ours."""
    ended(gateway, tmp_path)
    (file,) = (tmp_path / "run" / "attempts").glob("*.parquet")
    file.write_bytes(damage(file.read_bytes()))
    done = crun_batch.open_run(tmp_path / "run")
    reads = lambda: crun_batch.report(done), lambda: crun_batch.show(done, 1), lambda: done.sql("select 1")
    for read in reads:
        with pytest.raises(RunDamaged, match="a file cannot be read: ") as caught:
            read()
        assert "verify --data" in caught.value.advice
