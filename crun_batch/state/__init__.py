"""Where a run directory stands: opened, recovered, compared with the job, marked done, told as a status."""
