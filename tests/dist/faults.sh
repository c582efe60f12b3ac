#!/usr/bin/env bash
# Ranks that die or stall, as a user meets them: mpirun of the program, one rank fails at a chosen
# phase. All ranks must be gone in time, the status must not be 0, and the culprit must be named.
# And jobs of which one rank is asked to stop: one save, status 75 of every rank, and it goes on.
#   tests/dist/faults.sh BUILD [cases]     the first `cases` of all; default 12
set -uo pipefail
program=$(realpath "$1")/pyramoe
cases=${2:-12}
deadline=3 ranks=4
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cat >"$work/config.toml" <<'END'
model.layers = 2
model.dim = 16
model.heads = 4
model.context = 16
model.vocab = 64
moe.experts = "0 4"
data.synthetic = true
train.batch = 8
train.steps = 6
train.eval_every = 2
train.save_every = 2
train.eval_sequences = 8
END

passed=0 failed=0
# one RANK PHASE N KIND
one() {
  local spec="$1,$2,$3,$4" run="$work/run" begin=$SECONDS log="$work/log" code most=15
  rm -rf "$run"
  [ "$4" = stop ] && most=$((deadline + 10))
  PYRAMOE_THREADS=1 timeout -s KILL 60 mpirun --allow-run-as-root --oversubscribe --bind-to none \
    -np $ranks -x PYRAMOE_RANK_FAULT="$spec" "$program" train "$work/config.toml" run.dir="$run" \
    parallel.deadline=$deadline >"$log" 2>&1
  code=$?
  local took=$((SECONDS - begin)) wrong=""
  [ $code -eq 0 ] && wrong="ended with status 0"
  [ $took -gt $((most + 5)) ] && wrong="took $took s"   # 5 s to start and train up to the fault
  [ "$4" = stop ] && ! grep -q "has waited" "$log" && wrong="no rank said what it waited for"
  sleep 0.2
  pgrep -f "run.dir=$run" >/dev/null && wrong="processes are left"
  if [ "$2" != init ]; then
    "$program" inspect "$run" >"$work/inspect" 2>&1
    # Who fell silent first, by the flight records.
    grep -q "first to fall silent: rank $1" "$work/inspect" || wrong="${wrong:-$(tail -n 3 "$work/inspect" | tr '\n' ' ')}"
  fi
  if [ -z "$wrong" ]; then
    passed=$((passed + 1))
  else
    failed=$((failed + 1))
    echo "FAILED rank,phase,n,kind = $spec: $wrong (status $code, $took s)"
    tail -n 5 "$log"
  fi
}

# asked_to_stop RANK SECONDS WHOSE: SIGTERM to one rank of a run that would last for ever. WHOSE
# status is looked at: the job's as a user sees it, or the ranks', each kept by a shell around it
# (the launcher, which ends ranks that outlive the first, is then told not to, and says 0).
asked_to_stop() {
  local run="$work/stopped" log="$work/log" wrong="" pid launcher code
  local around=() keep=()
  rm -rf "$run" "$work/status"
  mkdir "$work/status"
  if [ "$3" = ranks ]; then
    keep=(--mca orte_abort_on_non_zero_status 0)
    # shellcheck disable=SC2016
    around=(bash -c '"$@"; echo $? >"$STATUS/$OMPI_COMM_WORLD_RANK"' shell)
  fi
  STATUS="$work/status" PYRAMOE_THREADS=1 timeout -s KILL 60 mpirun --allow-run-as-root \
    --oversubscribe --bind-to none "${keep[@]}" -np $ranks "${around[@]}" \
    "$program" train "$work/config.toml" run.dir="$run" train.steps=100000000 train.save_every=0 \
    train.eval_every=0 >"$log" 2>&1 &
  launcher=$!
  for ((turn = 0; turn < 200; ++turn)); do
    [ -s "$run/metrics.jsonl" ] && break
    sleep 0.05
  done
  sleep "$2"
  for pid in $(pgrep -f "^$program train .*run.dir=$run"); do
    tr '\0' '\n' <"/proc/$pid/environ" 2>/dev/null | grep -qx "OMPI_COMM_WORLD_RANK=$1" && kill -TERM "$pid"
  done
  wait "$launcher"
  code=$?
  [ "$3" = ranks ] || [ $code -eq 75 ] || wrong="the job ended with $code"
  for ((rank = 0; rank < ranks; ++rank)); do
    [ "$3" = job ] || [ "$(cat "$work/status/$rank" 2>/dev/null)" = 75 ] ||
      wrong="rank $rank ended with $(cat "$work/status/$rank" 2>/dev/null || echo nothing)"
  done
  [ "$(find "$run/checkpoints" -maxdepth 1 -name 'step_????????' 2>/dev/null | wc -l)" -eq 1 ] ||
    wrong="not one checkpoint"
  local step
  step=$(find "$run/checkpoints" -maxdepth 1 -name 'step_????????' 2>/dev/null | sed 's/.*step_0*//')
  "$program" inspect "$run" --tensors >"$work/inspect" 2>&1 || wrong="${wrong:-inspect refuses it}"
  # It goes on from there, on another number of ranks.
  PYRAMOE_THREADS=1 mpirun --allow-run-as-root --oversubscribe --bind-to none -np 2 "$program" \
    train "$work/config.toml" run.dir="$run" train.steps=$((step + 2)) train.eval_every=0 \
    >"$work/again" 2>&1 || wrong="${wrong:-it does not go on}"
  grep -q "resumed from .*step_0*$step" "$work/again" || wrong="${wrong:-not resumed}"
  if [ -z "$wrong" ]; then
    passed=$((passed + 1))
  else
    failed=$((failed + 1))
    echo "FAILED rank $1 asked to stop after $2 s: $wrong"
    tail -n 5 "$log" "$work/again"
  fi
}

asked_to_stop 0 0.1 job
asked_to_stop 2 0.4 ranks

n=0
for place in "1 forward 2" "2 backward 1" "3 reduce 0" "0 save 1" "1 eval 2" "2 init 1" \
  "0 forward 12" "3 save 0" "1 reduce 1" "2 eval 0"; do
  for kind in kill stop exit; do
    # shellcheck disable=SC2086
    [ $n -lt "$cases" ] && one $place $kind
    n=$((n + 1))
  done
done
for rank in 0 3; do
  for phase in forward backward reduce save eval; do
    for kind in kill stop exit; do
      [ $n -lt "$cases" ] && one $rank $phase 5 $kind
      n=$((n + 1))
    done
  done
done
echo "$passed passed, $failed failed"
[ $failed -eq 0 ]
