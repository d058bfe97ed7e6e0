#!/usr/bin/env bash
# Train with N processes on this machine that work together as the hosts of a pod do.
#
#   launch/local_multiprocess.sh 2 --gin_file=experiments/imagen_base_tiny.gin \
#       --gin_file=mesh/fsdp.gin --gin.MODEL_DIR="'runs/two'"
#   launch/local_multiprocess.sh --dry_run 2 ...      # prints the commands
#
# The processes share nothing but the network and MODEL_DIR. The numbers are those of one process
# with as many devices. What process 0 says is shown, the others write into LOG_DIR; when one fails,
# all are stopped, and the end of its log is shown. When one gets SIGTERM, all save together and start
# again; when this script gets it, they save and it ends. Everything after N goes to `vidgen train`.
set -euo pipefail

PLATFORM="${PLATFORM:-cpu}"                 # of JAX; on GPUs give each process its own device
PORT="${PORT:-}"                            # where process 0 listens; default: a free one
LOG_DIR="${LOG_DIR:-}"                      # default: a new temporary folder
DEVICES="${DEVICES:-1}"                     # simulated devices of each process (cpu)
RESTARTS="${RESTARTS:-100}"                 # how often it starts again when a process was preempted

# shellcheck source=launch/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"
options "$@"
set -- "${REST[@]}"
[[ "${1:-}" =~ ^[1-9][0-9]*$ ]] || fail "the first argument is the number of processes, like 2."
processes="$1"
shift

free_port() {
  python3 -c 'import socket; s = socket.socket(); s.bind(("", 0)); print(s.getsockname()[1])'
}

# The environment of process $1, as arguments of env.
environment() {
  printf '%s\n' "JAX_PLATFORMS=$PLATFORM" "JAX_COORDINATOR_ADDRESS=localhost:$PORT" \
    "JAX_NUM_PROCESSES=$processes" "JAX_PROCESS_ID=$1"
  if [ "$PLATFORM" = cpu ]; then
    printf '%s\n' "XLA_FLAGS=--xla_force_host_platform_device_count=$DEVICES ${XLA_FLAGS:-}"
  fi
}

if [ -n "$DRY_RUN" ]; then
  PORT="${PORT:-$(free_port)}"
  for ((process = 0; process < processes; process++)); do
    mapfile -t settings < <(environment "$process")
    run env "${settings[@]}" vidgen train "$@"
  done
  exit 0
fi

LOG_DIR="${LOG_DIR:-$(mktemp -d)}"
mkdir -p "$LOG_DIR"
say "logs of the processes: $LOG_DIR"

# All that process 0 said is in its log, and shown; bounded, a stray child may hold the pipe.
shown() {
  for ((tenths = 0; tenths < 50; tenths++)); do
    kill -0 "$tee" 2> /dev/null || return 0
    sleep 0.1
  done
}

# start PROCESS COMMAND ...: what process 0 says goes through a pipe to the screen and its log.
start() {
  local process="$1" settings
  shift
  mapfile -t settings < <(environment "$process")
  if [ "$process" -eq 0 ]; then
    env "${settings[@]}" "$@" > "$LOG_DIR/shown" 2>&1 &
  else
    env "${settings[@]}" "$@" >> "$LOG_DIR/$process.log" 2>&1 &
  fi
  pids+=("$!")
}

# PROCESS ended with CODE, which is no preemption: says so, and stops the others.
failed() {
  [ "$1" -ne 0 ] || shown
  say "process $1 ended with status $2:"
  tail -n 5 "$LOG_DIR/$1.log" >&2
  [ "${#left[@]}" -eq 0 ] || kill -KILL "${left[@]}" 2> /dev/null || true
}

# Runs COMMAND in all processes; the status is that of the first that failed.
together() {
  local status=0 code ended remaining process pid
  rm -f "$LOG_DIR/shown"
  mkfifo "$LOG_DIR/shown"
  (trap '' INT TERM; exec tee -a "$LOG_DIR/0.log") < "$LOG_DIR/shown" &
  tee="$!"
  pids=()
  for ((process = 0; process < processes; process++)); do
    start "$process" "$@"
  done
  left=("${pids[@]}")
  while [ "${#left[@]}" -gt 0 ]; do
    ended=""
    code=0
    wait -n -p ended "${left[@]}" || code=$?
    [ -n "${ended:-}" ] || continue  # a signal came, and was passed on
    remaining=()
    for pid in "${left[@]}"; do
      [ "$pid" = "$ended" ] || remaining+=("$pid")
    done
    left=("${remaining[@]}")
    if [ "$code" -ne 0 ] && [ "$status" -eq 0 ]; then
      status="$code"
      for ((process = 0; process < processes; process++)); do
        [ "${pids[$process]}" != "$ended" ] || break
      done
      [ "$code" -eq "$PREEMPTED" ] || failed "$process" "$code"
    fi
  done
  shown
  rm "$LOG_DIR/shown"
  return "$status"
}

# A signal goes on to all of them: they save together, and end.
signalled=""
pids=()
trap 'signalled=1; kill -TERM "${pids[@]}" 2> /dev/null || true' TERM
trap 'signalled=1; kill -INT "${pids[@]}" 2> /dev/null || true' INT

port="$PORT"
while true; do
  PORT="${port:-$(free_port)}"
  status=0
  together vidgen train "$@" || status=$?
  [ "$status" -eq "$PREEMPTED" ] && [ -z "$signalled" ] && [ "$RESTARTS" -gt 0 ] || exit "$status"
  RESTARTS=$((RESTARTS - 1))
  say "preempted; starting again ($RESTARTS more times)"
done
