"""`init`: a first job that runs as it is, with --simulate and for real: a commented job file and ten rows."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from pathlib import Path

from crun_batch.errors import DiskFailed, InputError
from crun_batch.paths import is_there

JOB_NAME = "label-reviews.yaml"
TABLE_NAME = "reviews.csv"

JOB = """\
# Labels ten product reviews. From this folder:
#
#   crun-batch check label-reviews.yaml             reads everything, calls nothing
#   crun-batch run label-reviews.yaml --simulate    the whole run against a simulator: no key, no cost
#   export CRUN_API_KEY=...                         the key of your account; it never stands in a file
#   crun-batch run label-reviews.yaml               for real; shows the bill first and asks
#
# Every key and its default: crun-batch schema, or docs/job-file.md

name: label-reviews

input:
  table: reviews.csv            # .parquet .csv .tsv .jsonl .arrow; a glob or a list works too
  id: review_id                 # a unique column; without it, the row's position
  # where: "lang = 'en'"        # which rows, as SQL
  # limit: 5                    # the first rows only; or sample: {rows: 5, seed: 7}

model: gpt-5.4                  # crun-batch models: what the gateway offers
# endpoint: {protocol: chat}    # chat | responses | messages | completions

prompt:                         # {{ name }} is the row's column of that name
  system: "You label product reviews. Answer with one of: positive, negative, mixed"
  user: |
    Product: {{ product }}
    Review: {{ text }}

params:                         # sent with each request
  temperature: 0
  max_output_tokens: 64         # bounds what one request can cost

budget:
  max_cost_credits: 5           # never spends more, over all sessions of this run
prices:                         # CRUN gives no prices by API: compare with its price page before a real run
  models:
    gpt-5.4: {currency: credits, input_per_mtok: 500, output_per_mtok: 3000, minimum_per_request: 0.01}

output:
  dir: runs/label-reviews       # where the results go, seen from where you start it
  columns: [product, lang]      # input columns that the results carry besides the id

# limits: {concurrency: 64, requests_per_minute: 600}
"""

TABLE = """\
review_id,product,lang,text
r01,Kettle,en,"Boils in two minutes and does not drip. Exactly what I wanted."
r02,Kettle,en,"The lid came loose after a week. I sent it back."
r03,Desk lamp,de,"Schönes Licht, aber der Schalter klemmt manchmal."
r04,Desk lamp,en,"Bright, light, and the arm stays where you put it."
r05,Backpack,fr,"Très solide. Je l'emmène partout depuis six mois."
r06,Backpack,en,"The zip broke on day three, and support never answered."
r07,Headphones,en,"Great sound, weak battery: four hours, not the twenty promised."
r08,Headphones,es,"Cómodos y ligeros. Los recomiendo."
r09,Notebook,en,"Paper so thin that ink shows through. Nice cover, though."
r10,Notebook,en,"My third one. It lies flat and lasts a whole year."
"""


def write_starter(folder: Path) -> tuple[Path, ...]:
    """Write the job file and its table into `folder`, made where it is missing; the files written.

    Where a reviews.csv of somebody's own is there, the table gets another name, and the job names that. Raises
    InputError where the job file is there already (nothing is written then) and DiskFailed.
    """
    if is_there(folder / JOB_NAME):
        message = f"{folder} already has {JOB_NAME}; nothing was written"
        raise InputError(message, advice="Name another folder, such as: crun-batch init my-first-job")
    table = next(name for name in _table_names() if not is_there(folder / name))
    files = {folder / JOB_NAME: JOB.replace(f"table: {TABLE_NAME} ", f"table: {table} "), folder / table: TABLE}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path, text in files.items():
            with path.open("x", encoding="utf-8") as file:
                file.write(text)
    except OSError as error:
        raise DiskFailed(f"{folder}: cannot be written: {error.strerror or error}") from error
    return tuple(files)


def _table_names() -> Iterator[str]:
    yield TABLE_NAME
    yield f"sample-{TABLE_NAME}"
    yield from (f"sample-{number}-{TABLE_NAME}" for number in count(2))
