"""Answers of earlier runs for requests that this job would send again: taken over, and not paid a second time.

Owns which run may be taken from, and what counts as the same: the request's bytes (model, params, prompt), the
repeat, and the address that was asked (a model of the same name elsewhere is another model). Nothing is sent here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crun_batch.errors import InputError, Mistake, RunDamaged
from crun_batch.load.job.sweep import variations
from crun_batch.paths import is_folder
from crun_batch.records import Unit, known_pico
from crun_batch.store.directory import SIMULATED, RunDirectory, read_json
from crun_batch.store.events import FinalPart
from crun_batch.store.views import connect, run_schema
from crun_batch.workload.recorded_job import recorded_job
from crun_batch.workload.workload import Workload

if TYPE_CHECKING:
    from crun_batch.store.recorded import RecordedAnswers


class Earlier:
    """One run that answers are taken from."""

    def __init__(self, name: str, path: Path, places: Sequence[frozenset[str]]) -> None:
        """`places`: of each variant of this job the addresses that it may be sent to."""
        from crun_batch.store.recorded import open_answers  # with polars: most jobs take from no other run

        self.name = name
        theirs = _places_of(path)
        self._groups = list(dict.fromkeys(theirs.values()))
        number = {addresses: index for index, addresses in enumerate(self._groups)}
        self._asks = [[number[one] for one in self._groups if one & own] for own in places]
        if not any(self._asks):
            raise InputError(_foreign(name, self._groups, places))
        wanted = {group for groups in self._asks for group in groups}
        groups = {variant: number[one] for variant, one in theirs.items() if number[one] in wanted}
        self.answers: RecordedAnswers = open_answers(path, run_schema(RunDirectory(path)), groups.get)

    def find(self, request_hash: str, unit: Unit) -> FinalPart | None:
        """The result for a unit that asks this; None: it was not asked there, or not answered."""
        for group in self._asks[unit.variant]:
            found = self.answers.find(request_hash, unit.repeat, group)
            if found is not None:
                was_given = self.answers.was_given(str(unit.row_id), request_hash, unit.repeat, group)
                return _part(found, self.name, was_given=was_given)
        return None


Taken = FinalPart | None
"""The result that an earlier run has for a unit; None: it must be sent."""


class Reuse:
    """The runs that answers are taken from, in the order in which they are asked."""

    def __init__(self, runs: Sequence[Earlier]) -> None:
        self._runs = runs

    def part(self, request_hash: str, unit: Unit) -> Taken:
        """The result of a unit that asks this, without the column `output`; None: it must be sent."""
        for run in self._runs:
            found = run.find(request_hash, unit)
            if found is not None:
                return found
        return None


def open_reuse(workload: Workload) -> Reuse:
    """The runs that the job names under `reuse`, each held against its checksums.

    Raises InputError for what is no run, is this run itself, or asked other gateways; RunDamaged, DiskFailed.
    """
    job = workload.job
    names = [job.reuse] if isinstance(job.reuse, str) else job.reuse or ()
    simulated = job.output.dir.name.endswith(SIMULATED)
    places = [_places(variant.job, is_simulated=simulated) for variant in workload.variants]
    runs = []
    for index, name in enumerate(names):
        try:
            path = _folder(name, job.output.dir)
            runs.append(Earlier(name, path, places))
            _refuse_packed(name, path, workload)
        except InputError as error:
            told = "; ".join(mistake.message for mistake in error.mistakes)
            raise InputError(Mistake(told, file=job.source, key=f"reuse[{index}]")) from None
    return Reuse(runs)


def _refuse_packed(name: str, path: Path, workload: Workload) -> None:
    """An answer that was given among others is none to a row that is asked alone. Raises InputError."""
    if all(variant.job.pack is not None for variant in workload.variants):
        return
    with connect(path) as connection:
        [[packed]] = connection.execute("select count(*) from attempts where pack_rows is not null").fetchall()
    if packed:
        raise InputError(
            f"{name} has answers to several rows in one request (pack), and this job asks rows alone: "
            "name runs that asked them alone, or write pack here too"
        )


def _folder(name: str, own: Path) -> Path:
    path = Path(name)
    if not is_folder(path):
        raise InputError(
            f"{name}: there is no run directory of that name (the path starts in the current directory)"
        )
    if path.resolve() == own.resolve():
        raise InputError(f"{name} is this run's own directory: what is finished there is never asked again")
    if not RunDirectory(path).has_job:
        raise InputError(f"{name} holds no run (no job.json): only what crun-batch has recorded is taken over")
    return path


def _places_of(path: Path) -> dict[str, frozenset[str]]:
    """Variant of a recorded run -> the addresses that it was sent to. Raises RunDamaged, InputError."""
    document = read_json(RunDirectory(path).job)
    try:
        job = recorded_job(document)
    except KeyError as error:
        raise RunDamaged(f"{path}: its job.json has no {error}: no answer is taken from it") from error
    simulated = path.name.endswith(SIMULATED)
    return {one.name: _places(one.job, is_simulated=simulated) for one in variations(job)}


def _places(job: Any, *, is_simulated: bool) -> frozenset[str]:
    return frozenset([SIMULATED] if is_simulated else (one.endpoint.base_url for one in job.at_each_endpoint))


def _foreign(name: str, theirs: Sequence[frozenset[str]], ours: Sequence[frozenset[str]]) -> str:
    there, here = (
        ", ".join(
            sorted({"the simulator" if one == SIMULATED else one for addresses in each for one in addresses})
        )
        for each in (theirs, ours)
    )
    return f"{name} has answers of {there}, and this job asks {here}: another gateway's answers are not taken over"


def _part(found: Mapping[str, Any], name: str, *, was_given: bool) -> FinalPart:
    """The result as it is recorded here: it asked nothing and cost nothing.

    `was_given`: to this row there as well, at no cost; then nothing is saved either.
    """
    usd, credits_ = found["cost_usd"], found["cost_credits"]
    saved_usd, saved_credits = (
        None if found["attempt_count"] == 0 or one is None else 0 if was_given else known_pico(one)
        for one in (usd, credits_)
    )
    return FinalPart(
        status=found["status"],
        error_kind=found["error_kind"],
        error_message=found["error_message"],
        text=found["output_text"],
        tool_calls=found["tool_calls"],
        finish_reason=found["finish_reason"],
        model=found["model"],
        response_id=found["response_id"],
        input_tokens=0,
        cached_input_tokens=0,
        cache_write_tokens=0,
        output_tokens=0,
        reasoning_tokens=0,
        cost_usd=None if usd is None else 0,
        cost_credits=None if credits_ is None else 0,
        cost_source=found["cost_source"],
        attempt_count=0,
        request_hash=found["request_hash"],
        outputs=found["outputs"],
        reused_from=name,
        saved_usd=saved_usd,
        saved_credits=saved_credits,
    )
