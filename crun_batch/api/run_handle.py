"""A run directory as people see it: `Run`, made by a session that ended or by `open_run` at any moment.

Reads only: nothing here needs the lock, and a run that is being written can be read all the time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from crun_batch.console.words import summary_text
from crun_batch.errors import InputError
from crun_batch.load.arguments import arguments_told
from crun_batch.reporting.exporting import AnyFormat, ExportOptions, export_run, format_of, names_in
from crun_batch.reporting.notebook import summary_html
from crun_batch.state.commands import summary_in
from crun_batch.store import views
from crun_batch.store.views import attempts_frame, results_frame

if TYPE_CHECKING:
    import pandas
    import polars as pl
    import pyarrow as pa

    from crun_batch.page.view import View
    from crun_batch.reporting.comparing import RunComparison
    from crun_batch.store.verify import Finding


class Run:
    """What a run has done so far.

    `status` is finished, stopped, interrupted or running; `exit_code` what the command line ends with, None while
    it runs; `stop_reason` a sentence, or None. `cost_usd` and `cost_credits` are Decimal sums over all attempts of
    all sessions, None where nothing is known of them.
    """

    def __init__(self, directory: Path, summary: Mapping[str, Any]) -> None:
        self.directory = directory
        self.summary: dict[str, Any] = dict(summary)

    @property
    def status(self) -> str:
        return str(self.summary["status"])

    @property
    def exit_code(self) -> int | None:
        code: int | None = self.summary["exit_code"]
        return code

    @property
    def stop_reason(self) -> str | None:
        reason: str | None = self.summary["stop_reason"]
        return reason

    @property
    def cost_usd(self) -> Decimal | None:
        return self._amount("cost_usd")

    @property
    def cost_credits(self) -> Decimal | None:
        return self._amount("cost_credits")

    def results(self) -> pl.LazyFrame:
        """One row per finished unit, live, in the columns of `results`."""
        return results_frame(self.directory)

    def attempts(self) -> pl.LazyFrame:
        """One row per request that was sent, live, in the columns of `attempts`."""
        return attempts_frame(self.directory)

    @arguments_told
    def sql(self, query: str) -> pa.Table:
        """The answer of one SELECT over `results` and `attempts`, live; InputError with DuckDB's complaint."""
        return views.query(self.directory, query)

    @arguments_told
    def verify(self, *, data: bool = False) -> list[Finding]:
        """What is wrong with the run's files, or odd; `data`: every byte against its checksum."""
        from crun_batch.store.verify import verify

        return verify(self.directory, data=data)

    def to_pandas(self) -> pandas.DataFrame:
        """The results as a pandas frame, read at once. Raises InputError where pandas is not installed."""
        try:
            import pandas as pd
        except ImportError as error:
            raise InputError("to_pandas needs pandas: pip install pandas; results() needs nothing") from error
        frame: pd.DataFrame = self.results().collect().to_arrow().to_pandas()
        return frame

    @arguments_told
    def compare(
        self,
        *others: Run | str | Path,
        score: str | None = None,
        baseline: str | None = None,
        label: str | None = None,
        gold: str | None = None,
    ) -> RunComparison:
        """Its variants side by side, or this run beside others. See `crun_batch.compare`."""
        from crun_batch.reporting.comparing import ComparisonOptions, compare_runs

        places = [one.directory if isinstance(one, Run) else Path(one) for one in (self, *others)]
        return compare_runs(places, ComparisonOptions(score=score, baseline=baseline, label=label, gold=gold))

    @arguments_told
    def view(self, *, host: str = "127.0.0.1", port: int = 0, table: object | None = None) -> View:
        """Serve the page of this run until its `stop()`. See `crun_batch.view`."""
        from crun_batch.page.served import ViewOptions, serve_page

        return serve_page([self.directory], ViewOptions(host, port, table))

    @arguments_told
    def export(
        self,
        format: AnyFormat | str | Path,
        target: BinaryIO | str | Path | None = None,
        *,
        where: str | None = None,
        columns: Sequence[str] = (),
        status: Sequence[str] | str = (),
        table: object | None = None,
    ) -> int:
        """Write the results in another form; returns how many rows. See `crun_batch.export`.

        `export(path)` takes the form from the file's ending (.csv, .jsonl, .parquet, .html). `target` is a
        binary stream, or the path of a file, whose folder is made where it is missing and which is
        replaced when all is written. Raises InputError, DiskFailed where the file cannot be written.
        """
        options = ExportOptions(where, names_in(columns), names_in(status), table)
        form, place = (format_of(Path(format)), format) if target is None else (format, target)
        return export_run(self.directory, form, place, options).rows  # type: ignore[arg-type]

    @arguments_told
    def report(self, width: int | None = None) -> str:
        """The summary in words; `width` in terminal columns."""
        return summary_text(self.summary, width)

    @arguments_told
    def report_html(self, path: str | Path | None = None) -> Path:
        """Write the report of this moment as one HTML file that opens offline; returns where it is.

        Default for `path`: report.html in the run directory. Raises RunDamaged, DiskFailed.
        """
        from crun_batch.reporting.read import make_report  # plots and page are loaded only where one is made

        return make_report([self.directory], path).path

    def __repr__(self) -> str:
        return f"<Run {str(self.directory)!r}>\n{self.report()}"

    def _repr_html_(self) -> str:
        return summary_html(self.summary)

    def _amount(self, name: str) -> Decimal | None:
        text = self.summary[name]
        return None if text is None else Decimal(text)


def run_in(path: Path) -> Run:
    """The run in a directory. Raises InputError where there is none, RunDamaged."""
    return Run(path, summary_in(path))
