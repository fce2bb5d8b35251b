#!/usr/bin/env bash
# Trains on a slice of TPUs booked as a queued resource (docs/scaling.md).
#
#   BUCKET=my-bucket ZONE=us-west4-a TYPE=v5litepod-256 scripts/tpu_slice.sh book
#   ... scripts/tpu_slice.sh train --config='configs/rembert.py:text=/bucket/text/{language}/{split}.txt'
#   ... scripts/tpu_slice.sh log | stop | release
#
# With --dry_run first, as in `scripts/tpu_slice.sh --dry_run book`, it prints the commands and runs none.
set -euo pipefail

NAME=${NAME:-rembert}                   # Of the slice, of the folder of the run in the bucket, and of the log.
ZONE=${ZONE:-us-central2-b}
TYPE=${TYPE:-v4-128}                    # gcloud compute tpus accelerator-types list --zone=ZONE
RUNTIME=${RUNTIME:-tpu-ubuntu2204-base} # v2-alpha-tpuv5-lite, v2-alpha-tpuv5, v2-alpha-tpuv6e for newer chips.
BUCKET=${BUCKET:-}                      # Text is read from it and the run is written to it; in the region of the zone.
BOOKING=${BOOKING:---spot}              # Or --reserved, or empty for on demand.

dry_run=""
if [ "${1:-}" = --dry_run ]; then dry_run=1; shift; fi

run() {
  if [ -n "$dry_run" ]; then printf '%q ' "$@"; echo; else "$@"; fi
}

on_all_hosts() { # Runs the shell command $1 on every host of the slice at the same time.
  run gcloud compute tpus tpu-vm ssh "$NAME" --zone="$ZONE" --worker=all --command="$1"
}

usage() {
  sed -n '2,8s/^# \{0,1\}//p' "$0" >&2
  exit 2
}

command=${1:-}
[ -n "$command" ] || usage
shift
if [ -z "$BUCKET" ]; then echo "BUCKET is empty: name the bucket that holds text and runs" >&2; exit 2; fi

case $command in
  book)
    # shellcheck disable=SC2086
    run gcloud compute tpus queued-resources create "$NAME" --node-id="$NAME" --zone="$ZONE" \
      --accelerator-type="$TYPE" --runtime-version="$RUNTIME" $BOOKING
    echo "train once its state is ACTIVE: gcloud compute tpus queued-resources describe $NAME --zone=$ZONE" >&2
    ;;
  train)
    [ $# -gt 0 ] || usage
    on_all_hosts "mkdir -p rembert_jax"
    run gcloud compute tpus tpu-vm scp --recurse --zone="$ZONE" --worker=all \
      README.md pyproject.toml requirements.txt train.py rembert_jax configs "$NAME:rembert_jax/"
    on_all_hosts "sudo mkdir -p /bucket && sudo chown \$USER /bucket"
    on_all_hosts "mountpoint -q /bucket || gcsfuse --implicit-dirs --rename-dir-limit=1000000 $BUCKET /bucket"
    on_all_hosts "cd rembert_jax && python3 -m venv env && env/bin/pip install -q '.[tpu]'"
    # Each host finds the others by itself; the log of the first one is shown by `log`.
    on_all_hosts "cd rembert_jax; nohup env/bin/python train.py --workdir=/bucket/runs/$NAME $(printf '%q ' "$@")> train.log 2>&1 &"
    ;;
  log)
    run gcloud compute tpus tpu-vm ssh "$NAME" --zone="$ZONE" --worker=0 --command="tail -f rembert_jax/train.log"
    ;;
  stop) # Saves after the step that is under way.
    on_all_hosts "pkill -TERM -f '[p]ython train.py' || true"
    ;;
  release)
    run gcloud compute tpus queued-resources delete "$NAME" --zone="$ZONE" --force --quiet
    ;;
  *) usage ;;
esac
