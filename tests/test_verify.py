"""verify finds every damage and every broken promise, and says nothing of a sound run."""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from store_kit import Killed, KillingDisk, ManualSyncer, answer, open_run, read, start, write_listed

from crun_batch.store.directory import write_json
from crun_batch.store.disk import Disk
from crun_batch.store.events import FinalPart
from crun_batch.store.journal import create_journal, resume_journal
from crun_batch.store.recover import recover
from crun_batch.store.results import publish
from crun_batch.store.schema import RunSchema, schema_document
from crun_batch.store.seal import seal_segment
from crun_batch.store.verify import verify
from crun_batch.store.views import attempt_totals

SCHEMA = RunSchema(id_name="review_id", id_type=pa.int64(), carried=pa.schema([("lang", pa.string())]))
FINAL = FinalPart("ok", as_read=True, carried={"lang": "en"})


def build(path: Path, *, more=lambda journal: None, disk: Disk | None = None) -> Path:
    """A run with two sealed segments, a live one, a superseded row, a report and a summary."""
    run = open_run(path, disk)
    write_json(run, run.job, {"run_schema": schema_document(SCHEMA)})
    journal = create_journal(run, None, syncer=ManualSyncer())
    answer(journal, 1, final=FINAL)
    answer(journal, 2, final=FinalPart("error", as_read=True))
    seal_segment(run, journal.maybe_rotate(dict, force=True), SCHEMA)
    again = FinalPart("ok", as_read=True, supersedes=True, attempt_count=2, cost_usd=2 * 10**9 + 2 + 3)
    answer(journal, 2, final=again)
    more(journal)
    seal_segment(run, journal.maybe_rotate(dict, force=True), SCHEMA)
    publish(run, SCHEMA)
    answer(journal, 3, final=FINAL)
    publish(run, SCHEMA)
    write_listed(run, "report.html", b"<html>report</html>")
    write_json(run, run.summary, {"ended": True, "attempt_totals": attempt_totals(path).document()})
    journal.close()
    run.close()
    return path


@pytest.fixture(scope="session")
def sound(tmp_path_factory) -> Path:
    return build(tmp_path_factory.mktemp("sound") / "run")


@pytest.fixture
def path(sound, tmp_path) -> Path:
    return shutil.copytree(sound, tmp_path / "run", symlinks=True)


def errors(path, **options) -> list[str]:
    return [
        f"{finding.file}: {finding.what}" for finding in verify(path, **options) if finding.severity == "error"
    ]


def files(path: Path) -> list[Path]:
    return sorted(
        file for file in path.rglob("*") if file.is_file() and not file.is_symlink() and file.name != ".lock"
    )


def test_a_sound_run_has_no_findings(sound):
    """Nothing, at any severity."""
    assert [] == verify(sound)
    assert [] == verify(sound, data=True)


def test_what_a_kill_of_the_first_session_leaves_is_no_damage(tmp_path):
    """At any operation that changes the disk, but before a generation is linked: a link may have been removed."""
    whole = KillingDisk()
    build(tmp_path / "whole", disk=whole)
    begun, published = whole.log.index("rename job.json") + 1, whole.log.index("rename results.parquet")
    for at in range(begun, published + 1):
        if whole.log[at].startswith("sync"):
            continue
        path = tmp_path / str(at)
        with pytest.raises(Killed):
            build(path, disk=KillingDisk(at, within=True))
        if not (path / "journal" / "results-000001.parquet").exists():
            assert [] == errors(path, data=True), whole.log[at]
    assert ["results.parquet: is missing, or no link to a generation"] == errors(path, data=True)


def test_verify_changes_nothing(path):
    """Not a byte, also where it finds damage."""
    with (path / "journal" / "000003.jsonl").open("ab") as file:
        file.write(b"torn")
    before = {file: file.read_bytes() for file in files(path)}
    assert ["info"] == [finding.severity for finding in verify(path, data=True)]
    assert before == {file: file.read_bytes() for file in files(path)}


@settings(deadline=None, max_examples=30)
@given(data=st.data())
def test_any_flipped_bit_in_any_file_is_found(sound, tmp_path_factory, data):
    """With data=True; one bit, anywhere."""
    path = shutil.copytree(sound, tmp_path_factory.mktemp("flip") / "run", symlinks=True)
    file = data.draw(st.sampled_from(files(path)))
    content = bytearray(file.read_bytes())
    bit = data.draw(st.integers(0, len(content) * 8 - 1))
    content[bit // 8] ^= 1 << bit % 8
    file.write_bytes(content)
    assert str(file.relative_to(path)) in {finding.file for finding in verify(path, data=True)}
    shutil.rmtree(path.parent)


@pytest.mark.parametrize(
    "name",
    [
        "job.json",
        "results.parquet",
        "attempts/000001.parquet",
        "journal/parts/000002.parquet",
        "journal/results-000002.parquet",
        "journal/results-000001.parquet",
        "report.html",
    ],
)
def test_a_missing_file_is_named(path, name):
    """Without --data too."""
    (path / name).unlink()
    assert name in " ".join(errors(path))


def test_a_journal_that_is_gone_is_named(path):
    """Of a run that has sealed: no session can have left it so."""
    for segment in (path / "journal").glob("*.jsonl"):
        segment.unlink()
    assert "journal: there is no segment" in errors(path)


def test_a_shorter_file_is_named_without_reading_it(path):
    """The manifest has its size."""
    file = path / "attempts" / "000001.parquet"
    file.write_bytes(file.read_bytes()[:-1])
    assert [line for line in errors(path) if line.startswith("attempts/000001.parquet: has")]


def test_the_link_must_point_to_the_newest_generation(path):
    """An older one is said, a foreign one too."""
    link = path / "results.parquet"
    link.unlink()
    link.symlink_to("journal/results-000001.parquet")
    assert [("results.parquet", "warning")] == [(finding.file, finding.severity) for finding in verify(path)]
    link.unlink()
    shutil.copy(path / "journal" / "results-000002.parquet", link)
    assert ["results.parquet: is missing, or no link to a generation"] == errors(path)


def test_files_of_nobody_are_said(path):
    """A stranger is a warning, a leftover of a crash an information, an unlisted sealed file an error."""
    (path / "attempts" / ".000004.parquet.tmp").write_bytes(b"half")
    (path / "notes.txt").write_text("mine")
    shutil.copy(path / "attempts" / "000001.parquet", path / "attempts" / "000009.parquet")
    assert {
        ("attempts/.000004.parquet.tmp", "info"),
        ("notes.txt", "warning"),
        ("attempts/000009.parquet", "error"),
    } == {(finding.file, finding.severity) for finding in verify(path)}


def test_a_damaged_line_is_named_with_its_number(path):
    """The journal's middle."""
    file = path / "journal" / "000003.jsonl"
    file.write_bytes(file.read_bytes().replace(b'"e":"start"', b'"e":"stort"'))
    assert ["journal/000003.jsonl: line 2: its checksum does not fit"] == errors(path)


def test_an_attempt_that_is_there_twice_is_found(tmp_path):
    """A bug of ours, or a copied line."""

    def twice(journal):
        for _ in range(2):
            journal.append_reads([read(9, 9, FinalPart("ok", as_read=True))])

    found = errors(build(tmp_path / "run", more=twice))
    assert "attempts: attempt 9 is recorded 2 times" in found
    assert "units: unit (9, base, 0) has 2 results" in found


def test_costs_that_do_not_add_up_are_found(tmp_path):
    """A unit's cost is the sum of its attempts'."""
    found = errors(build(tmp_path / "run", more=lambda journal: answer(journal, 5, final=FinalPart("ok"))))
    said = "its result says None USD and None credits, its attempts add up to 0.001000000004 and None"
    assert [f"costs: unit (5, base, 0): {said}"] == found


def test_a_result_whose_unit_is_being_asked_again_costs_what_it_did(tmp_path):
    """Where `--retry` stops half way, it has attempts that no result has yet: that is no damage."""
    path = build(tmp_path / "run", more=lambda journal: answer(journal, 1, final=None, attempt=2))
    assert [] == errors(path, data=True)


def test_a_summary_that_is_wrong_is_found(path):
    """Once the run has ended."""
    run = open_run(path)
    totals = attempt_totals(path).document()
    write_json(run, run.summary, {"ended": True, "attempt_totals": {**totals, "cost_usd": "1"}})
    assert [f"summary.json: cost_usd is 1; the attempts add up to {totals['cost_usd']}"] == errors(path)
    write_json(run, run.summary, {"ended": False, "attempt_totals": {**totals, "cost_usd": 1}})
    assert [] == errors(path)
    run.close()


def test_the_sums_of_earlier_versions_are_read(path):
    """They told amounts in pico, which end where 64 bits do."""
    run = open_run(path)
    write_json(run, run.summary, {"ended": True, "attempt_totals": msgspec.to_builtins(attempt_totals(path))})
    assert [] == errors(path)
    run.close()


def test_amounts_of_any_size_are_kept_as_they_are(tmp_path):
    """Ten million credits and more, of one request and of all: 64 bits would end there."""
    held, cost = 31 * 10**18 + 1, 2**64 + 7

    def more(journal):
        answer(journal, 4, final=FINAL, cost_credits=cost, held_credits=held)
        answer(journal, 5, final=FINAL, cost_credits=None, held_credits=held)

    path = build(tmp_path / "run", more=more)
    assert [] == errors(path, data=True)
    totals = attempt_totals(path)
    assert (cost, held) == (totals.cost_credits, totals.held_unknown_credits)
    assert "31000000.000000000001" == totals.document()["held_unknown_credits"]


def test_what_came_after_the_last_publication_is_no_finding(tmp_path):
    """results.parquet is compared with what was recorded when it was published."""
    path = build(tmp_path / "run")
    run = open_run(path)
    journal = resume_journal(run, recover(run), syncer=ManualSyncer())
    journal.append_starts([start(next(journal.serials), 8)])
    journal.append_reads([read(5, 1, FinalPart("ok", as_read=True, supersedes=True, cost_usd=2 * 10**9 + 1 + 5))])
    journal.close()
    run.summary.unlink()
    assert [] == verify(path, data=True)
    run.close()


def test_published_results_that_are_not_the_recorded_ones_are_found(tmp_path):
    """A generation of another run under our name, listed and whole."""
    path, other = build(tmp_path / "run"), tmp_path / "other"
    build(other, more=lambda journal: answer(journal, 7, final=FINAL))
    run = open_run(path)
    write_listed(
        run, "journal/results-000002.parquet", (other / "journal" / "results-000002.parquet").read_bytes()
    )
    run.close()
    assert [line for line in errors(path) if "(7, base, 0) with status ok is not what was recorded" in line]
