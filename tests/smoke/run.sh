#!/usr/bin/env bash
# Every experiment from end to end at scale smoke, in a scratch folder: all runs are trained,
# evaluated and timed, each one's validation loss falls, and every report is made and complete. What
# the losses say about models is not asked: they are far too small for that.
#   tests/smoke/run.sh BUILD
# Closes with one line: N passed, N failed.
set -uo pipefail
cd "$(dirname "$0")/../.."
program=${1:-build}/pyramoe
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
passed=0 failed=0

# check WHAT COMMAND...
check() {
  local what=$1
  shift
  if "$@"; then
    passed=$((passed + 1))
  else
    failed=$((failed + 1))
    echo "FAILED: $what"
  fi
}

# First and last validation loss of a result.json: the last must be lower.
loss_falls() {
  sed -nE 's/^.*"validation": \[\[[0-9.]+,([0-9.]+)\].*\[[0-9.]+,([0-9.]+)\]\],?$/\1 \2/p' "$1" |
    awk '{ found = 1; if ($2 >= $1) { print "  from " $1 " to " $2; bad = 1 } } END { exit bad || !found }'
}

begin=$SECONDS
check "all runs of all experiments" "$program" experiment run experiments --scale smoke --runs "$scratch/runs"
for result in "$scratch"/runs/smoke/*/result.json; do
  grep -q '"config": ""' "$result" && continue  # an evaluation of another run
  check "the loss of $(dirname "$result") falls" loss_falls "$result"
done
echo "runs took $((SECONDS - begin)) s"

check "reports" "$program" report experiments --runs "$scratch/runs" --out "$scratch/report" >"$scratch/log"
for definition in experiments/*/experiment.toml; do
  folder=$(dirname "$definition")
  out=$scratch/report/$(basename "$folder")
  check "the page and figures of $folder" \
    bash -c 'test -s "$1/results.md" && test -s "$(echo "$1"/figure_*.svg | cut -d" " -f1)"' - "$out"
  planned=$("$program" experiment plan "$folder" --scale smoke | sed -nE 's/^([0-9]+) runs, .*/\1/p')
  check "$folder has a result for each of its $planned runs" \
    test "$(grep -c '"scale": "smoke"' "$out/results.json")" -ge "$planned"
  check "no arm of $folder is without a run" bash -c '! grep -qE "^\| [^|]+ \| 0 \|" "$1"' - "$out/results.md"
done
check "reports made again are the same" "$program" report experiments --out "$scratch/report" --check

echo "smoke took $((SECONDS - begin)) s"
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
