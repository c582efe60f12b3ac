#!/usr/bin/env bash
# Ranks that die or stall, as a user meets them: mpirun of the program, one rank fails at a chosen
# phase. All ranks must be gone in time, the status must not be 0, and the culprit must be named.
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
