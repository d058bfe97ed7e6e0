#!/usr/bin/env bash
# Train on TPUs of Google Kubernetes Engine: fills in gke_jobset.yaml and submits it.
#
#   IMAGE=gcr.io/mine/vidgen MODEL_DIR=gs://my-bucket/base launch/gke.sh \
#       --gin_file=experiments/imagen_base_paper.gin --gin_file=mesh/fsdp.gin
#   launch/gke.sh --dry_run ...                       # prints what would be submitted
#   kubectl delete jobset vidgen                      # stops it
#
# The cluster needs the JobSet controller and a node pool of the accelerator; the image needs vidgen
# with its extras tpu and gcs. Everything after the options goes to `vidgen train`.
set -euo pipefail

export NAME="${NAME:-vidgen}"
export IMAGE="${IMAGE:-}"
export MODEL_DIR="${MODEL_DIR:-}"
export ACCELERATOR="${ACCELERATOR:-tpu-v5p-slice}"  # cloud.google.com/gke-tpu-accelerator
export TOPOLOGY="${TOPOLOGY:-2x2x2}"
export CHIPS_PER_HOST="${CHIPS_PER_HOST:-4}"
export SLICES="${SLICES:-1}"
export RESTARTS="${RESTARTS:-100}"
export SERVICE_ACCOUNT="${SERVICE_ACCOUNT:-default}"  # with access to the bucket

here="$(dirname "${BASH_SOURCE[0]}")"
# shellcheck source=launch/common.sh
. "$here/common.sh"
options "$@"
needs kubectl "https://kubernetes.io/docs/tasks/tools"
[ -n "$IMAGE" ] || fail "set IMAGE to a container image with vidgen."
[ -n "$MODEL_DIR" ] || fail "set MODEL_DIR to a folder in a bucket, like gs://my-bucket/base."

chips=1
for side in ${TOPOLOGY//x/ }; do chips=$((chips * side)); done
[ $((chips % CHIPS_PER_HOST)) -eq 0 ] || fail "TOPOLOGY $TOPOLOGY has $chips chips, which hosts of $CHIPS_PER_HOST do not make."
export HOSTS=$((chips / CHIPS_PER_HOST))

# Python, since envsubst is not everywhere; the flags become a YAML list.
manifest="$(python3 - "$here/gke_jobset.yaml" "${REST[@]}" "--gin.MODEL_DIR='$MODEL_DIR'" << 'EOF'
import json, os, string, sys

text = open(sys.argv[1]).read()
print(string.Template(text).substitute(os.environ, ARGUMENTS=json.dumps(sys.argv[2:])))
EOF
)"
if [ -n "$DRY_RUN" ]; then
  echo "$manifest"
else
  kubectl apply -f - <<< "$manifest"
fi
