#!/bin/sh
# What `make demo` shows: a real job, through a real HTTP gateway that is simulated on this machine.
set -eu
crun_batch=$1
show() { printf '\n$ crun-batch %s\n' "$*"; "$crun_batch" "$@"; }

show check jobs/label-reviews.yaml
show estimate jobs/label-reviews.yaml --simulate
show run jobs/label-reviews.yaml --simulate
show sql runs/label-reviews-simulated \
  "select review_id, output_text as label, input_tokens, output_tokens, cost_credits from results limit 8"
