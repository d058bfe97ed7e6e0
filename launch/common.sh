# What the launch scripts share; read by them, not run.
# shellcheck shell=bash

PREEMPTED=75  # vidgen train: stopped by SIGTERM, saved; the same command goes on

# Options of this script come first: --dry_run, --help. REST has the others.
options() {
  DRY_RUN=""
  case "${1:-}" in
    --dry_run) DRY_RUN=1; shift ;;
    --help | -h) usage; exit 0 ;;
  esac
  # shellcheck disable=SC2034  # for those who read this file
  REST=("$@")
}

# The comment at the head of the script.
usage() { sed -n '2,/^[^#]/{/^#SBATCH/d;s/^#$//p;s/^# //p}' "$0"; }

say() { echo "$(basename "$0"): $*" >&2; }

fail() {
  say "$*"
  exit 2
}

# needs COMMAND WHERE_FROM: fails with a sentence where the command is not installed.
needs() {
  [ -n "$DRY_RUN" ] || command -v "$1" > /dev/null || fail "needs $1 ($2)."
}

# Runs a command, or with --dry_run prints it so that a shell would run it.
run() {
  if [ -n "$DRY_RUN" ]; then
    printf '%q ' "$@"
    echo
  else
    "$@"
  fi
}

# until_trained RESTARTS COMMAND ...: runs it again as long as it ends with the status of preemption.
until_trained() {
  local left="$1" status
  shift
  while true; do
    status=0
    run "$@" || status=$?
    [ "$status" -eq "$PREEMPTED" ] && [ "$left" -gt 0 ] || return "$status"
    left=$((left - 1))
    say "preempted; starting again ($left more times)"
  done
}
