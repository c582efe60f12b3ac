#!/usr/bin/env bash
# What many ranks have trained, one rank reads: generate, eval, export, import and inspect on the
# checkpoint of four ranks. With parallel.deterministic = "layout" the four and one rank train the
# same bits, so every tool must say the very same of both runs; a run with tensor ranks must at
# least say of itself what its own validation said. And what bench a2a counts is so.
#   tests/dist/tools.sh BUILD
set -uo pipefail
export LC_ALL=C
program=$(realpath "$1")/pyramoe
here=$(cd "$(dirname "$0")/../.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export PYRAMOE_THREADS=1
cat >"$work/config.toml" <<END
model.layers = 2
model.dim = 32
model.heads = 4
model.context = 64
model.vocab = 320
moe.experts = "0 4"
moe.residual = true
moe.capacity_factor = 1.25
data.sources = ["readme=$work/text.tok"]
data.tokenizer = "$work/tokenizer"
train.batch = 8
train.steps = 12
train.eval_sequences = 8
train.lr = 0.01
train.min_lr = 0.001
END

passed=0 failed=0
# check NAME COMMAND...
check() {
  local name=$1
  shift
  if "$@" >"$work/log" 2>&1; then
    passed=$((passed + 1))
  else
    failed=$((failed + 1))
    echo "FAILED $name"
    tail -n 12 "$work/log"
  fi
}
# train RUN RANKS SETTINGS...
train() {
  local run=$1 ranks=$2
  shift 2
  mpirun --allow-run-as-root --oversubscribe --bind-to none -np "$ranks" "$program" train \
    "$work/config.toml" run.dir="$work/$run" "$@"
}
# same A B TOOL...: the tool's output on both runs, but for the runs' own names.
same() {
  local a=$1 b=$2 tool=$3
  shift 3
  "$program" "$tool" "$work/$a" "$@" 2>&1 | sed "s|$work/$a|RUN|g" >"$work/out_a"
  [ "${PIPESTATUS[0]}" -eq 0 ] || { cat "$work/out_a"; return 1; }
  "$program" "$tool" "$work/$b" "$@" 2>&1 | sed "s|$work/$b|RUN|g" >"$work/out_b"
  [ -s "$work/out_a" ] && diff "$work/out_a" "$work/out_b"
}
exports_alike() {
  for run in "$@"; do
    "$program" export "$work/$run" --hf "$work/hf_$run" && "$program" import "$work/back_$run" \
      --hf "$work/hf_$run" || return 1
  done
  cmp "$work/hf_$1/model.safetensors" "$work/hf_$2/model.safetensors" &&
    "$program" generate "$work/back_$1" --tokens 40 --temperature 0 --no-stream >"$work/out_a" &&
    "$program" generate "$work/$1" --tokens 40 --temperature 0 --no-stream >"$work/out_b" &&
    diff "$work/out_a" "$work/out_b"
}
# The tool's loss against what the run's own ranks found in their last validation.
loss_is_the_runs() {
  "$program" eval "$work/$1" --loss --json --limit 8 >"$work/loss.json" || return 1
  python3 - "$work/loss.json" "$work/$1/eval.json" <<'END'
import json, sys
got, want = (json.load(open(path))["loss"] for path in sys.argv[1:])
print(got, want)
sys.exit(not abs(got - want) < 1e-5)
END
}
# bench a2a over the links there are: what travels goes by formula, and the model (0.2 s a message
# between nodes) predicts without delaying anything.
exchanges_counted() {
  mpirun --allow-run-as-root --oversubscribe --bind-to none -np 4 "$program" bench a2a --json \
    --node-size 2 --tensor 2 --real-links --link-model 0,0,200000,0 --bytes 1024 --repeats 3 \
    >"$work/a2a.json" || return 1
  python3 - "$work/a2a.json" <<'END'
import json, sys
want = {"flat": (1, 2, 512, 4e5), "hierarchical": (1, 1, 512, 2e5), "coordinated": (1, 1, 256, 2e5)}
rows = [json.loads(line) for line in open(sys.argv[1])]
print(rows)
good = len(rows) == len(want) and all(
    want[row["exchange"]] == (row["inside"], row["between"], row["bytes_between"],
                              round(row["model_us"]))
    and row["measured_us"] < 2e5 and "cpu_us" not in row for row in rows)
sys.exit(not good)
END
}

check "exchanges over real links" exchanges_counted
check "tokenizer" "$program" tokenize train --vocab-size 300 --out "$work/tokenizer" "$here/README.md"
check "tokens" "$program" tokenize prepare --tokenizer "$work/tokenizer" --out "$work/text.tok" \
  "$here/README.md"
check "train on one rank" train one 1 parallel.deterministic=layout
check "train on four ranks" train four 4 parallel.deterministic=layout
check "train with tensor ranks" train tensor 4 parallel.tensor=2 parallel.zero=1 train.micro_batch=2
check "generate" same one four generate --tokens 40 --samples 2 --seed 3 --no-stream
check "generate --show-experts" same one four generate --tokens 10 --json --show-experts 1 --no-stream
check "eval --loss" same one four eval --loss
check "inspect --tensors" same one four inspect --tensors
check "export and import" exports_alike one four
for run in one four tensor; do
  check "the loss of $run" loss_is_the_runs $run
done
check "export with tensor ranks" "$program" export "$work/tensor" --hf "$work/hf_tensor"
check "generate with tensor ranks" "$program" generate "$work/tensor" --tokens 20 --no-stream
echo "$passed passed, $failed failed"
[ $failed -eq 0 ]
