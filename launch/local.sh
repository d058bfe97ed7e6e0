#!/usr/bin/env bash
# Train on this machine, on all of its devices, and start again whenever training was preempted.
#
#   launch/local.sh --gin_file=experiments/imagen_base_demo.gin --gin.MODEL_DIR="'runs/demo'"
#   launch/local.sh --dry_run ...                     # prints the command
#
# Everything after the options of this script goes to `vidgen train`.
set -euo pipefail

MESH_FILE="${MESH_FILE:-mesh/fsdp.gin}"     # mesh/single.gin for one device
RESTARTS="${RESTARTS:-100}"                 # how often it starts again, at most

# shellcheck source=launch/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"
options "$@"

until_trained "$RESTARTS" vidgen train "${REST[@]}" "--gin_file=$MESH_FILE"
