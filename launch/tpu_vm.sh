#!/usr/bin/env bash
# Train on a Cloud TPU slice: make it, install vidgen on every host, and start the same command there.
#
#   PROJECT=mine ZONE=us-central2-b TPU_TYPE=v4-128 launch/tpu_vm.sh \
#       --gin_file=experiments/imagen_base_paper.gin --gin_file=mesh/fsdp.gin \
#       --gin.MODEL_DIR="'gs://my-bucket/base'"
#   launch/tpu_vm.sh --dry_run ...                    # prints the commands
#   launch/tpu_vm.sh --delete                         # gives the slice back
#
# When the slice is taken away (SPOT=1), it is made again and the run goes on from its newest
# checkpoint. MODEL_DIR and data belong in a bucket. Everything else goes to `vidgen train`.
set -euo pipefail

PROJECT="${PROJECT:-$(gcloud config get-value project 2> /dev/null || true)}"
ZONE="${ZONE:-us-central2-b}"
TPU_NAME="${TPU_NAME:-vidgen}"
TPU_TYPE="${TPU_TYPE:-v4-8}"
TPU_VERSION="${TPU_VERSION:-tpu-ubuntu2204-base}"
SPOT="${SPOT:-}"                            # 1: cheaper, and may be taken away at any time
SOURCE="${SOURCE:-$(dirname "${BASH_SOURCE[0]}")/..}"   # the clone that is copied to the hosts
PYTHON="${PYTHON:-python3.11}"              # on the hosts; 3.11 or later
RESTARTS="${RESTARTS:-100}"

# shellcheck source=launch/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"
options "$@"
set -- "${REST[@]}"
needs gcloud "https://cloud.google.com/sdk"
[ -n "$DRY_RUN" ] || [ -n "$PROJECT" ] || fail "set PROJECT to your Google Cloud project."

where=("--project=$PROJECT" "--zone=$ZONE")

on_all_hosts() {
  run gcloud compute tpus tpu-vm ssh "$TPU_NAME" "${where[@]}" --worker=all "--command=$1"
}

delete_slice() { run gcloud compute tpus tpu-vm delete "$TPU_NAME" "${where[@]}" --quiet; }

# READY, PREEMPTED, ..., or nothing where there is no such slice.
state() {
  [ -n "$DRY_RUN" ] || gcloud compute tpus tpu-vm describe "$TPU_NAME" "${where[@]}" \
    "--format=value(state)" 2> /dev/null || true
}

make_slice() {
  local found spot=()
  found="$(state)"
  [ "$found" != READY ] || return 0
  # One that was taken away has to be deleted before there can be another of its name.
  [ -z "$found" ] || delete_slice
  [ -z "$SPOT" ] || spot=(--spot)
  run gcloud compute tpus tpu-vm create "$TPU_NAME" "${where[@]}" \
    "--accelerator-type=$TPU_TYPE" "--version=$TPU_VERSION" "${spot[@]}"
  run gcloud compute tpus tpu-vm scp "$SOURCE" "$TPU_NAME:vidgen" "${where[@]}" \
    --worker=all --recurse
  on_all_hosts "$PYTHON -m venv venv && venv/bin/pip install -q -e 'vidgen[tpu,gcs]'"
}

if [ "${1:-}" = --delete ]; then
  delete_slice
  exit 0
fi

printf -v quoted '%q ' "$@"
left="$RESTARTS"
while true; do
  make_slice
  status=0
  on_all_hosts "venv/bin/vidgen train --distributed $quoted" || status=$?
  [ "$status" -ne 0 ] || exit 0
  # An error of the run itself, on a slice that is still there, would only come again.
  if [ "$left" -eq 0 ] || { [ "$status" -ne "$PREEMPTED" ] && [ "$(state)" = READY ]; }; then
    exit "$status"
  fi
  left=$((left - 1))
  say "the slice was preempted; going on ($left more times)"
done
