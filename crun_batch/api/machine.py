"""The public function that looks at the machine and the gateway: whether a run would start here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from crun_batch.api.jobs import finished
from crun_batch.load.arguments import arguments_told

if TYPE_CHECKING:
    from crun_batch.options import AnyJob


@arguments_told
def doctor(
    job: AnyJob | None = None, *, environ: Mapping[str, str] | None = None, **overrides: Any
) -> dict[str, Any]:
    """Whether this machine and a job's gateway are ready; without a job, CRUN. Sends no prompt and costs nothing.

    Returns the document that `doctor --json` prints: `is_ready`, and `findings`, of each `about`, `level` (good,
    note, problem), `says`, and `advice` or null. Raises InputError where the job itself is wrong.
    """
    from crun_batch.options import options_of
    from crun_batch.preflight.doctor import diagnose
    from crun_batch.preflight.offers import gateway_job

    options = options_of(overrides, environ=environ)
    return finished(diagnose(gateway_job(job, options), options))
