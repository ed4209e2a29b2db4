"""An Airflow DAG: estimate, run, compare; a run that was broken off goes on where it stopped.

The task fails where the run's exit code says that something is left to do, and Airflow's retry resumes it:
what has a result is not sent, or paid, again.
"""

from datetime import datetime, timedelta

from airflow.sdk import dag, task


@dag(schedule="@daily", start_date=datetime(2026, 1, 1), catchup=False)
def label_reviews():
    """One task a day."""

    @task(retries=3, retry_delay=timedelta(minutes=5))
    def run(simulate: bool = False) -> str:
        import crun_batch

        done = crun_batch.run("jobs/label-reviews.yaml", max_cost_usd=5, simulate=simulate, handle_signals=False)
        if done.exit_code not in (0, 1):
            raise RuntimeError(done.stop_reason)
        return str(done.directory)

    run()


label_reviews()
