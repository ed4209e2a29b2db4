"""The laws of counting in a process of its own: the same counts, whatever happens to it, and nothing stays."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crun_batch.errors import RefusedToStart
from crun_batch.pricing.tokens import Counter, count_bodies, remembering
from crun_batch.vocabulary import counters, process
from crun_batch.vocabulary.counters import token_counter
from crun_batch.vocabulary.process import VocabularyProcess

if find_spec("bpe_openai") is None:  # not imported: its vocabularies would stay in each process that collects this
    pytest.skip("bpe-openai is optional", allow_module_level=True)
O200K = "o200k_base"
TEXTS = ["", "hello world", "Zwölf Äpfel, 3 pears", "\ud800x", "x\0y", "快递晚了两天才到"]
SPAN_SECONDS = 30.0
"""In which a process that ends has ended, on a busy machine."""
CHILD = f"from crun_batch.vocabulary import counters; told = counters._process({O200K!r}); told.count_all(['a'])"


def counted_here(texts: list[str]) -> list[int]:
    return counters._count_here(O200K, texts)


@pytest.fixture
def counting() -> Iterator[VocabularyProcess]:
    """One of its own for a test."""
    bindings = counters._bindings()
    assert bindings is not None and bindings.origin is not None
    counting = VocabularyProcess(O200K, Path(bindings.origin).parent)
    yield counting
    counting._ended()


def pid_of(counting: VocabularyProcess) -> int:
    """Of the process that is asked; it has been asked something."""
    assert [1] == counting.count_all(["a"])
    assert counting.pid is not None
    return counting.pid


def has_ended(pid: int) -> bool:
    """Whether it runs no more; a zombie that somebody else is to reap has ended."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    state = Path(f"/proc/{pid}/stat")
    return state.exists() and state.read_text().rpartition(")")[2].split()[0] == "Z"


def is_reaped(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def comes_true(condition: Callable[[], bool]) -> bool:
    """Within the span."""
    until = time.monotonic() + SPAN_SECONDS
    while not condition():
        if time.monotonic() > until:
            return False
        time.sleep(0.01)
    return True


@settings(max_examples=200)
@given(st.lists(st.text(st.characters())))
def test_a_process_of_its_own_counts_the_same(texts: list[str]) -> None:
    """Lone surrogates and empty texts among them; no text, no question."""
    assert counted_here(texts) == token_counter("gpt-4o").count_all(texts)


def test_a_question_of_any_size_is_answered(counting: VocabularyProcess) -> None:
    """More texts, and longer ones, than a pipe holds: the question and the answer."""
    texts = [f"{number} {text}" for number in range(20_000) for text in TEXTS] + ["the quick brown fox " * 100_000]
    assert counted_here(texts) == counting.count_all(texts)


def test_each_vocabulary_counts_by_itself() -> None:
    text = ["Zwölf Äpfel, 3 pears"]
    assert counters._count_here("cl100k_base", text) == token_counter("gpt-4").count_all(text)
    assert counted_here(text) == token_counter("gpt-5").count_all(text)
    assert token_counter("gpt-5").count_all(text) != token_counter("gpt-4").count_all(text)


def test_what_prompts_share_is_asked_once() -> None:
    """All texts of all requests in one question, and none that the last had as well."""
    asked: list[list[str]] = []

    def count_all(texts: list[str]) -> list[int]:
        asked.append(texts)
        return [len(text) for text in texts]

    counter = remembering(Counter(count_all, exact=True, name="characters"))
    roles = {"system": "Be brief.", "user": "How?"}
    bodies = [
        orjson.dumps({"messages": [{"role": role, "content": text * times} for role, text in roles.items()]})
        for times in (1, 1, 2)
    ]
    first, same, other = count_bodies(bodies, counter)
    assert first == same and 9 + 4 == other.tokens - first.tokens
    assert 4 * 2 + 3 + 9 + 4 == first.tokens
    assert [first, other] == count_bodies([bodies[0], bodies[2]], counter)
    assert [["Be brief.", "How?", "Be brief.Be brief.", "How?How?"]] == asked


def test_threads_ask_one_after_the_other(counting: VocabularyProcess) -> None:
    texts = [[f"{number} pears and {number * 7} apples"] * 50 for number in range(40)]
    with ThreadPoolExecutor(8) as threads:
        assert [counted_here(each) for each in texts] == list(threads.map(counting.count_all, texts))


def test_a_process_that_was_killed_between_questions_is_replaced(counting: VocabularyProcess) -> None:
    pid = pid_of(counting)
    os.kill(pid, signal.SIGKILL)
    assert counted_here(TEXTS) == counting.count_all(TEXTS)
    assert pid != counting.pid


def test_a_process_that_is_killed_at_a_question_is_replaced(counting: VocabularyProcess) -> None:
    """Stopped first, so that it surely dies with the question in its hands."""
    pid = pid_of(counting)
    os.kill(pid, signal.SIGSTOP)
    with ThreadPoolExecutor(1) as threads:
        answer = threads.submit(counting.count_all, TEXTS * 10_000)
        time.sleep(0.2)
        assert not answer.done()
        os.kill(pid, signal.SIGKILL)
        assert counted_here(TEXTS * 10_000) == answer.result(60)


def test_a_question_that_is_interrupted_leaves_no_answer_for_the_next(counting: VocabularyProcess) -> None:
    """Ctrl-C in the middle of a question, as in a notebook: the next one gets its own counts."""

    class Interrupted(BaseException):
        pass

    def interrupt(*_: object) -> None:
        raise Interrupted

    pid = pid_of(counting)
    os.kill(pid, signal.SIGSTOP)
    former = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        with pytest.raises(Interrupted):
            counting.count_all(["one two three"])
    finally:
        signal.signal(signal.SIGALRM, former)
        os.kill(pid, signal.SIGCONT)
    assert counted_here(["four"]) == counting.count_all(["four"])
    assert comes_true(lambda: is_reaped(pid))


def test_where_each_process_is_killed_nothing_is_counted(
    counting: VocabularyProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where memory is short: which signal it was, and what to do."""
    killed = tmp_path / "python"
    killed.write_text("#!/bin/sh\nkill -9 $$\n")
    killed.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(killed))
    with pytest.raises(RefusedToStart, match="ended by signal 9") as refused:
        counting.count_all(TEXTS)
    assert "bpe-openai" in refused.value.advice


@pytest.mark.parametrize("program", [None, "exit 1", "exec sleep 60"])
def test_where_no_such_process_can_be_had_its_parent_counts(
    program: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No Python is known; it does not start; it never says that it is ready. It is tried once."""
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\n{program}\n")
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", program and str(python))
    monkeypatch.setattr(process, "START_SECONDS", 0.2)
    counters._process.cache_clear()
    try:
        assert counted_here(TEXTS) == token_counter("gpt-4o").count_all(TEXTS)
        monkeypatch.setattr(subprocess, "Popen", None)
        assert counted_here(TEXTS) == token_counter("gpt-4o").count_all(TEXTS)
    finally:
        counters._process.cache_clear()


def test_a_frozen_program_is_not_started_to_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would start itself."""
    counters._process.cache_clear()
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    monkeypatch.setattr(subprocess, "Popen", None)
    try:
        assert counted_here(TEXTS) == token_counter("gpt-4o").count_all(TEXTS)
    finally:
        counters._process.cache_clear()


def test_without_a_vocabulary_no_process_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    """bpe-openai is optional, and other makers' models have no vocabulary here."""
    monkeypatch.setattr(counters, "_process", None)
    assert 3 == token_counter("claude-sonnet-4-5").count("hello world")
    monkeypatch.setattr(counters, "_bindings", lambda: None)
    assert 3 == token_counter("gpt-4o").count("hello world")


def test_a_process_that_is_asked_nothing_ends_and_is_reaped(
    counting: VocabularyProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its memory is given back, and no zombie stays; the next question starts another."""
    monkeypatch.setattr(process, "IDLE_SECONDS", 0.2)
    pid = pid_of(counting)
    assert comes_true(lambda: is_reaped(pid))
    assert pid != pid_of(counting)
    assert counted_here(TEXTS) == counting.count_all(TEXTS)


def test_a_process_whose_parent_is_killed_ends_at_once() -> None:
    """By kill -9: nothing of the parent's runs any more. Nor does who reads its output wait for the child."""
    program = f"from crun_batch.vocabulary import process; process.IDLE_SECONDS = 60; {CHILD}; print(told.pid)"
    program += "; sys.stdout.flush(); time.sleep(60)"
    command = [sys.executable, "-c", f"import sys, time; {program}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as parent:
        assert parent.stdout is not None and parent.stderr is not None
        pid = int(parent.stdout.readline())
        assert not has_ended(pid)
        parent.kill()
        assert (b"", b"") == (parent.stdout.read(), parent.stderr.read())
        assert comes_true(lambda: has_ended(pid))


def test_a_parent_that_ends_has_reaped_its_child() -> None:
    """What the child took is told with what the parent took."""
    program = f"import os, sys; {CHILD}; print(told.pid)"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "" == ended.stderr
    assert is_reaped(int(ended.stdout))


def test_a_fork_asks_a_process_of_its_own() -> None:
    """Of two at the same pipes, one would read the other's answers."""
    program = (
        f"import os, sys; {CHILD}\n"
        "forked = os.fork()\n"
        "count = counters.token_counter('gpt-4o').count\n"
        "counts = [(count('a ' * size), size + 1) for size in range(5 if forked else 6, 600, 2)]\n"
        "right = counts == [(expected, expected) for _, expected in counts]\n"
        "sys.exit(not right or (forked and os.waitstatus_to_exitcode(os.waitpid(forked, 0)[1])))\n"
    )
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", program]  # of os.fork among threads
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (0, "") == (ended.returncode, ended.stderr)


def test_ctrl_c_at_an_estimate_is_for_the_parent_alone(tmp_path: Path) -> None:
    """Sent to all of the terminal's group, as a terminal does: no traceback, and an exit code that says so."""
    text = "the quick brown fox " * 2_000
    (tmp_path / "rows.jsonl").write_bytes(
        b"".join(orjson.dumps({"text": f"{n} {text}"}) + b"\n" for n in range(500))
    )
    (tmp_path / "job.yaml").write_text(
        'name: law\ninput: {table: rows.jsonl}\nmodel: gpt-5.4\nprompt: {user: "{{ text }}"}\n'
        "params: {max_output_tokens: 9}\n"
    )
    command = [sys.executable, "-m", "crun_batch", "estimate", "job.yaml", "--simulate"]
    with subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as estimating:
        assert comes_true(lambda: any(map(counts_tokens, children_of(estimating.pid))))
        os.killpg(estimating.pid, signal.SIGINT)
        said, complained = estimating.communicate(timeout=60)
    assert (130, "") == (estimating.returncode, said)
    assert "Traceback" not in complained and "Ctrl-C" in complained


def children_of(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for task in tasks for child in task.read_text().split()]


def counts_tokens(pid: int) -> bool:
    return b"child.py" in Path(f"/proc/{pid}/cmdline").read_bytes()


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="reads /proc")
def test_a_run_that_has_counted_holds_no_vocabulary(tmp_path: Path) -> None:
    """Not one page of it is mapped in its own process, from its first request on."""
    program = (
        "import crun_batch\n"
        "from pathlib import Path\n"
        "job = crun_batch.Job(name='law', input={'table': 'rows.jsonl'}, model='gpt-5.4',\n"
        "    prompt={'user': '{{ text }}'}, params={'max_output_tokens': 900}, output={'dir': 'run'})\n"
        "told = crun_batch.estimate(job, simulate=True)\n"
        "assert told['variants'][0]['counter'] == 'o200k_base', told\n"
        "assert crun_batch.run(job, simulate=True).exit_code == 0\n"
        "print('bpe_openai' in Path('/proc/self/maps').read_text())\n"
    )
    (tmp_path / "rows.jsonl").write_text('{"text": "a"}\n')
    told = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True, timeout=60
    )
    assert "False" == told.stdout.split()[-1]


def test_no_thread_stays_of_a_process_that_has_ended(
    counting: VocabularyProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "IDLE_SECONDS", 0.1)
    for _ in range(3):
        pid = pid_of(counting)
        assert comes_true(lambda: is_reaped(pid))  # noqa: B023 - asked at once
    waiting = lambda: [one for one in threading.enumerate() if one.name == "vocabulary"]  # noqa: E731
    assert comes_true(lambda: len(waiting()) <= 1)
