#!/usr/bin/env bash
# kill -9 of a random rank at random moments of a 4-rank run that saves after every step: the newest
# committed checkpoint is always intact, and the run goes on from it.
#   tests/dist/kills.sh BUILD [kills]     default 20
set -uo pipefail
program=$(realpath "$1")/pyramoe
kills=${2:-20}
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
train.steps = 100000
train.save_every = 1
train.eval_sequences = 8
END
passed=0 failed=0 before=0
for ((i = 0; i < kills; ++i)); do
  PYRAMOE_THREADS=1 mpirun --allow-run-as-root --oversubscribe --bind-to none -np 4 \
    "$program" train "$work/config.toml" run.dir="$work/run" parallel.deadline=10 \
    >"$work/log" 2>&1 &
  launcher=$!
  for ((turn = 0; turn < 200; ++turn)); do  # until it has saved something new
    newest=$(find "$work/run/checkpoints" -maxdepth 1 -name 'step_????????' 2>/dev/null | sort | tail -n 1)
    [ "${newest##*_}" != "$before" ] && [ -n "$newest" ] && break
    sleep 0.05
  done
  sleep "0.$((RANDOM % 10))$((RANDOM % 10))"
  mapfile -t pids < <(pgrep -P "$launcher" -f "run.dir=$work/run")
  [ ${#pids[@]} -gt 0 ] && kill -9 "${pids[RANDOM % ${#pids[@]}]}" 2>/dev/null
  wait "$launcher"
  newest=$(find "$work/run/checkpoints" -maxdepth 1 -name 'step_????????' | sort | tail -n 1)
  if [ -n "$newest" ] && "$program" inspect "$newest" --tensors >"$work/inspect" 2>&1 &&
    [ "${newest##*_}" \> "$before" ]; then
    passed=$((passed + 1))
  else
    failed=$((failed + 1))
    echo "FAILED kill $i: newest ${newest:-none}, before $before"
    tail -n 3 "$work/inspect" "$work/log"
  fi
  before=${newest##*_}
done
echo "$passed passed, $failed failed"
[ $failed -eq 0 ]
