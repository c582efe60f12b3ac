#!/usr/bin/env bash
# compute-sanitizer over the CUDA code: all four tools over the small cases of gpu_test (Hopper and
# portable kernels), whole training steps of a small PR-MoE (eager, captured, replayed) and decoding.
#   tests/gpu/sanitize.sh BUILD [SECONDS]     SECONDS: that one cell of the table may take
#   SANITIZE_TOOLS="memcheck racecheck" SANITIZE_PARTS="decode attention" choose some
#   SANITIZER=PATH      another compute-sanitizer than the toolkit's
# Prints a table of parts and tools with the errors found; the logs stay in sanitize_logs.
set -uo pipefail
build=$(cd "${1:?usage: tests/gpu/sanitize.sh BUILD [SECONDS]}" && pwd) limit=${2:-300}
tools=${SANITIZE_TOOLS:-memcheck initcheck synccheck racecheck}
logs=${SANITIZE_LOGS:-$PWD/sanitize_logs}
at_once=${SANITIZE_AT_ONCE:-8}
sanitizer=${SANITIZER:-$(command -v compute-sanitizer || echo /usr/local/cuda/bin/compute-sanitizer)}
[ -x "$sanitizer" ] || { echo "compute-sanitizer is not here; it comes with the CUDA toolkit" >&2; exit 2; }
mkdir -p "$logs"

# Does initcheck see what the copy engine stores by a tensor map? If not, results of such kernels
# are written by hand before (cuda/initcheck.h). The probe that fills nothing must be reported.
probe() {
  "$sanitizer" --tool initcheck --error-exitcode 99 --print-limit 1 "$logs/probe" "$1" >"$logs/probe.$1" 2>&1
}
if [[ " $tools " = *" initcheck "* ]]; then
  nvcc=$(command -v nvcc || echo "$(dirname "$sanitizer")/nvcc")
  [ -x "$nvcc" ] || nvcc=/usr/local/cuda/bin/nvcc
  "$nvcc" -arch=sm_90a -std=c++20 -o "$logs/probe" "$(dirname "$0")/copy_engine_probe.cu" || exit 2
  probe plain && ! probe none || { echo "initcheck does not work here: $logs/probe.none" >&2; exit 2; }
  if ! probe tensor; then
    echo "initcheck does not see stores by a tensor map: their results are filled by hand before"
    export PYRAMOE_INITCHECK=1
  fi
fi

# Head dim 64, 128 tokens a micro-batch, 64 or more of them at one of two experts: Hopper attention,
# the tiled router, whole boxes of the grouped products.
cat >"$logs/step.toml" <<'END'
model.layers = 2
model.dim = 128
model.heads = 2
model.context = 64
model.vocab = 500
moe.experts = "2 8"
moe.residual = true
moe.capacity_factor = 1.25
train.batch = 4
train.micro_batch = 2
train.steps = 4
train.lr = 1.0e-3
train.warmup_tokens = 1000
train.eval_sequences = 2
data.synthetic = true
END

# part | command
parts=(
  "memory-bound|gpu_test Elementwise.*:Cast.*:Embedding.*:LayerNorm.*:Dropout.*:Reduce.*:Softmax.*"
  "losses and AdamW|gpu_test CrossEntropy.*:Distill.*:Adam.*"
  "products|gpu_test Matmul.*:Linear.*"
  "grouped|gpu_test DType/Grouped.*"
  "grouped, portable|portable gpu_test DType/Grouped.*"
  "attention|gpu_test CudaAttention.*EachPath:CudaAttention.Drops*"
  "attention, portable|portable gpu_test CudaAttention.*EachPath:CudaAttention.Drops*"
  "cache and decode|gpu_test CudaAttention.Cache*:CudaAttention.Decode*"
  "cache and decode, portable|portable gpu_test CudaAttention.Cache*:CudaAttention.Decode*"
  "routing|gpu_test MoeGpu.*:MoeRouterGpu.*"
  "MoE layer|gpu_test MoeLayerGpu.*"
  "graphs|gpu_test Graph.*-Graph.HostReads*"
  "training step bf16|train bf16"
  "training step f32|train f32"
  "bench decode bf16|decode bf16"
)

# Reports of a log that are wrong, each by its place; docs/testing.md says why.
known() {
  awk -v RS='========= \n' '/nvjet_sm90/ && /Race reported|Divergent thread/ { n++ } END { print n + 0 }' "$1"
}

# One cell: the tool's own summary, or why there is none.
cell() {
  local tool=$1 log=$2 words
  read -ra words <<<"$3"
  [ "${words[0]}" = portable ] && { export PYRAMOE_PORTABLE=1; words=("${words[@]:1}"); }
  export PYRAMOE_SMALL=1 PYRAMOE_THREADS=2
  case ${words[0]} in
    gpu_test) words=("$build/gpu_test" "--gtest_filter=${words[1]}") ;;
    train) words=("$build/pyramoe" train "$logs/step.toml" --device cuda "train.dtype=${words[1]}"
                  "run.dir=$log.run") ;;
    decode) words=("$build/pyramoe" bench decode "$logs/step.toml" --device cuda --batch 2 --steps 2
                   --warmup 1 --no-limits "train.dtype=${words[1]}") ;;
  esac
  [ "$tool" = initcheck ] || unset PYRAMOE_INITCHECK
  timeout -k 5 "$limit" "$sanitizer" --tool "$tool" --error-exitcode 99 --print-limit 10000 \
    --show-backtrace device "${words[@]}" >"$log" 2>&1
  local exit=$?
  rm -rf "$log.run"
  if [ $exit -eq 124 ] || [ $exit -eq 137 ]; then
    echo "no end in $limit s" >"$log.cell"
  elif grep -q 'RACECHECK SUMMARY' "$log"; then
    sed -n 's/.*RACECHECK SUMMARY: [0-9]* hazards* displayed (\(.*\))/\1/p' "$log" >"$log.cell"
  elif grep -q 'ERROR SUMMARY' "$log"; then
    sed -n 's/.*ERROR SUMMARY: \([0-9]*\) errors*.*/\1/p' "$log" >"$log.cell"
  fi
  local wrong
  wrong=$(known "$log")
  if [ "$wrong" -gt 0 ] && grep -qE "^$wrong( errors?, 0 warnings)?$" "$log.cell"; then
    echo "0 ($wrong known)" >"$log.cell"
  fi
  [ $exit -eq 0 ] || [ $exit -eq 99 ] || [ $exit -ge 124 ] || echo "(exit $exit)" >>"$log.cell"
}

started=$SECONDS
for tool in $(tr ' ' '\n' <<<"$tools" | tac); do  # the slow one, racecheck, first
  for row in "${parts[@]}"; do
    name=${row%%|*}
    [ -z "${SANITIZE_PARTS:-}" ] || [[ " $SANITIZE_PARTS " = *" ${name%%[ ,]*} "* ]] || continue
    while [ "$(jobs -rp | wc -l)" -ge "$at_once" ]; do wait -n; done
    t0=$SECONDS
    (cell "$tool" "$logs/${name// /_}.$tool" "${row#*|}"; echo $((SECONDS - t0)) >"$logs/${name// /_}.$tool.seconds") &
  done
done
wait

bad=0
printf '%-28s' part
printf '%-26s' $tools
echo
for row in "${parts[@]}"; do
  name=${row%%|*}
  [ -f "$logs/${name// /_}.${tools%% *}" ] || continue
  printf '%-28s' "$name"
  for tool in $tools; do
    log=$logs/${name// /_}.$tool
    text=$(tr '\n' ' ' <"$log.cell" 2>/dev/null || echo "no summary")
    [[ $text = "0 " || $text = "0 errors, 0 warnings " || $text =~ ^0\ \([0-9]+\ known\)\ $ ]] || bad=$((bad + 1))
    printf '%-26s' "$text$(cat "$log.seconds") s"
  done
  echo
done
echo "$bad cells are not clean, $((SECONDS - started)) s"
[ $bad -eq 0 ]
