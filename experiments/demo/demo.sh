#!/usr/bin/env bash
# make demo: from text to three trained models, a table, a picture and a text, in ten minutes.
#
#   experiments/demo/demo.sh BUILD [DATA]
#
# BUILD  build folder; everything goes to BUILD/demo (or BUILD/demo-NAME-CHECKSUM with DATA)
# DATA   a text file (one domain), or a folder or list of them (a domain each); none: the corpus
#
# Called again after a stop of any kind it goes on: what is finished is kept, a half-trained model
# resumes from its checkpoint.
#   DEMO_MINUTES   wall-clock budget, counted from DEMO_START (seconds since 1970); default 9
set -euo pipefail
export LC_ALL=C

build=${1:?usage: demo.sh BUILD [DATA]}
data=${2:-}
start=${DEMO_START:-$(date +%s)}
budget=$(awk -v m="${DEMO_MINUTES:-9}" 'BEGIN { print int(60 * m) }')
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
program=$build/pyramoe
models=(dense moe pr_moe)
vocab=2048   # model.vocab
sequence=128 # model.context
batch=4      # train.batch
child=

say() { printf '\n[%3d s] %s\n' $(($(date +%s) - start)) "$*"; }

# Runs pyramoe so that a signal to this script reaches it. Its exit code is ours.
run() {
  local code
  "$program" "$@" &
  child=$!
  while :; do
    interrupted=0 code=0
    wait "$child" || code=$?
    [ "$interrupted" -eq 1 ] || break
  done
  child=
  return "$code"
}
stopped() {
  interrupted=1
  [ -n "$child" ] || exit 75
  kill -TERM "$child" 2>/dev/null || true
}
trap stopped TERM INT
at_exit() {
  local code=$?
  [ "$code" -eq 0 ] || echo "demo: stopped with status $code; the same command goes on from here"
}
trap at_exit EXIT

# ---- The texts of the domains, in `texts`; the folder of the demo in `demo`.
gather() {
  texts=()
  if [ -z "$data" ]; then
    demo=$build/demo
    say "corpus from Debian packages"
    "$here/corpus.sh" "$demo"
    texts=("$demo"/corpus/*.txt)
    return
  fi
  local path paths
  paths=($data)
  [ -e "$data" ] && paths=("$data") # a name with spaces
  for path in "${paths[@]}"; do
    if [ -d "$path" ]; then
      texts+=("$path"/*.txt)
    else
      texts+=("$path")
    fi
  done
  for path in "${texts[@]}"; do
    [ -s "$path" ] && [ -r "$path" ] && continue
    echo "demo: no text in $path. Give DATA a text file, or a folder with files *.txt" >&2
    exit 3
  done
  demo=$build/demo-$(domain_of "${texts[0]}")-$(cat "${texts[@]}" | cksum | cut -d' ' -f1)
  mkdir -p "$demo"
}

domain_of() { basename "${1%.*}" | tr -c 'A-Za-z0-9_.\n-' _; }

tokenize() {
  if [ ! -e "$demo/tokenizer.done" ]; then
    say "training a byte-level BPE with $vocab tokens on $(cat "${texts[@]}" | wc -c) bytes"
    run tokenize train --vocab-size "$vocab" --out "$demo/tokenizer" "${texts[@]}"
    touch "$demo/tokenizer.done"
  fi
  sources=
  local text name
  for text in "${texts[@]}"; do
    name=$(domain_of "$text")
    sources+="${sources:+, }\"$name=$demo/tokens/$name.tok\""
    [ -e "$demo/tokens/$name.tok" ] && continue
    mkdir -p "$demo/tokens"
    run tokenize prepare --tokenizer "$demo/tokenizer" --out "$demo/tokens/$name.tok" "$text"
  done
}

train() { # MODEL FOLDER [key=value ...]
  local model=$1 folder=$2
  shift 2
  run train "$here/$model.toml" "run.dir=$folder" "data.sources=[$sources]" \
    "data.tokenizer=$demo/tokenizer" "$@"
}

# Median tokens/s of a run, without the first steps.
speed() {
  sed -n 's/.*"tokens_per_s": *\([0-9.eE+]*\).*/\1/p' "$1/metrics.jsonl" | tail -n +9 | sort -g |
    awk '{ x[NR] = $1 } END { print int(x[int((NR + 1) / 2)]) }'
}

# Chooses one number of steps for all models, so that they end in time, and how often each saves.
choose_budget() {
  [ -e "$demo/plan" ] && return
  say "a short probe of each model"
  local model rates=() left
  for model in "${models[@]}"; do
    rm -rf "$demo/probe"
    train "$model" "$demo/probe" train.steps=40 train.eval_sequences=1 train.log_every=40 \
      >"$demo/probe.log" 2>&1 || { local code=$?; cat "$demo/probe.log" >&2; exit "$code"; }
    rates+=("$(speed "$demo/probe")")
    echo "  $model: ${rates[-1]} tokens/s"
  done
  rm -rf "$demo/probe" "$demo/probe.log"
  left=$((budget - ($(date +%s) - start)))
  local size
  size=$(cat "${texts[@]}" | wc -c)
  # A tenth of the time is for validation and saving. At most four passes over the text (about
  # three bytes a token), at least 200 steps.
  awk -v left="$left" -v rates="${rates[*]}" -v step=$((batch * sequence)) -v bytes="$size" 'BEGIN {
    n = split(rates, rate, " ")
    for (i = 1; i <= n; ++i) each += step / rate[i]
    steps = int(0.85 * (left - 15) / each)
    most = int(4 * bytes / 3 / step)
    if (steps > most) steps = most
    if (steps < 200) steps = 200
    printf "steps=%d\n", steps
    for (i = 1; i <= n; ++i) {
      save = int(15 * rate[i] / step)
      printf "save[%d]=%d\n", i - 1, save < 1 ? 1 : save
    }
  }' >"$demo/plan.part"
  mv "$demo/plan.part" "$demo/plan"
}

train_all() {
  local steps save=() i model
  . "$demo/plan"
  say "training three models for $steps steps = $((steps * batch * sequence)) tokens each"
  for i in "${!models[@]}"; do
    model=${models[$i]}
    [ -e "$demo/$model.done" ] && continue
    say "$model"
    train "$model" "$demo/$model" "train.steps=$steps" "train.save_every=${save[$i]}" \
      "train.warmup_tokens=$((steps * batch * sequence / 20))" \
      "train.eval_every=$(((steps + 5) / 6))" "train.log_every=$(((steps + 9) / 10))"
    touch "$demo/$model.done"
  done
}

show() {
  say "results"
  run report "$demo/dense" "$demo/moe" "$demo/pr_moe" --svg "$demo/report.svg"
  local prompts=("In the beginning" "def __init__(self") prompt
  [ -z "$data" ] || prompts=("$(head -c 200 "${texts[0]}" | head -n 1 | cut -c 1-40)")
  for prompt in "${prompts[@]}"; do
    say "pr_moe goes on from \"$prompt\", each token in the colour of its expert"
    run generate "$demo/pr_moe" --prompt "$prompt" --tokens 100 --temperature 0.7 --seed 7 \
      --show-experts --ignore-eot
  done
  say "done. Runs, picture and texts are in $demo; delete the folder to start over"
}

say "building"
cmake -S "$root" -B "$build" -DCMAKE_BUILD_TYPE=Release -DPYRAMOE_TESTS=OFF >/dev/null
# Without make's own variables, so that it builds as if called by hand.
env -u MAKEFLAGS -u MAKELEVEL cmake --build "$build" --parallel "$(nproc)" --target pyramoe
gather
tokenize
choose_budget
train_all
show
