#!/usr/bin/env bash
# The layout fuzzer must find bugs. Each of these is planted in a copy of the sources, the copy is
# built, and the fuzzer must turn red; then the next.
#   tests/dist/planted.sh [first [last]]     bugs to plant, default all
set -uo pipefail
cd "$(dirname "$0")/../.."
first=${1:-1} last=${2:-99}
copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
# Where there is ccache, all copies of one source are one source to it.
export CCACHE_BASEDIR=$copy CCACHE_NOHASHDIR=1
git ls-files | tar -cf - -T - | tar -xf - -C "$copy"

# name | file | what stands there | what is put instead
bugs=(
  "missing all-reduce|train/trainer.cpp|    reducer_->reduce();|"
  "wrong group|nn/module.cpp|return {mesh->data(), mesh->world().size(), {}};|return {mesh->tensor(), mesh->world().size(), {}};"
  "doubled scale|train/trainer.cpp|    reducer_->reduce();|    reducer_->reduce(); reducer_->reduce();"
  "off-by-one row|nn/embedding.cpp|tensor_.rank() * tokens_.dim(0))|tensor_.rank() * (tokens_.dim(0) + 1))"
  "aux counted twice under recompute|nn/gpt.cpp|recomputing() ? again : context|context"
  "norm counts experts wrongly|train/flat_buffers.cpp|int64_t copies = group.copies;|int64_t copies = world_.size();"
  "gradient of gathered logits summed|dist/collective_ops.cpp|return {own_part(dy[0], group, axis)};|return {own_part(summed(dy[0], group), group, axis)};"
  "weights not gathered after zero|train/optimizer.cpp|    if (!cut_) return;|    return;"
  "losses of one rank|train/trainer.cpp|  if (mesh_) report_.sum_over(mesh_->data());|"
  "rows in source order|moe/rank_dispatcher.cpp|const std::vector<size_t> order = swap_outer(ranks, own, 1);|std::vector<size_t> order; for (size_t o = 0; o < ranks * own; ++o) order.push_back(o);"
)

passed=0 failed=0 number=0
cmake -S "$copy" -B "$copy/build" -DCMAKE_BUILD_TYPE=Release >/dev/null
for bug in "${bugs[@]}"; do
  number=$((number + 1))
  [ $number -lt "$first" ] || [ $number -gt "$last" ] && continue
  IFS='|' read -r name file from to <<<"$bug"
  cp "$copy/$file" "$copy/before"
  python3 - "$copy/$file" "$from" "$to" <<'END' || { echo "FAILED $name: nothing to replace"; failed=$((failed + 1)); continue; }
import sys
path, old, new = sys.argv[1:]
text = open(path).read()
if old not in text: sys.exit(1)
open(path, "w").write(text.replace(old, new, 1))
END
  found=no
  if cmake --build "$copy/build" --parallel "$(nproc)" --target dist_test >"$copy/log" 2>&1; then
    for ranks in 2 4; do
      PYRAMOE_THREADS=1 PYRAMOE_FUZZ_CASES=30 GTEST_BRIEF=1 timeout 600 mpirun --allow-run-as-root \
        --oversubscribe --bind-to none -np $ranks "$copy/build/dist_test" \
        --gtest_filter='LayoutFuzz.*' >"$copy/log" 2>&1 || found="on $ranks ranks"
      [ "$found" = no ] || break
    done
  else
    found="does not build"
    tail -n 5 "$copy/log"
  fi
  if [[ $found = on* ]]; then
    passed=$((passed + 1))
    echo "found $found: $name: $(grep -m1 -oE 'first step: [^"]*|at the end: [^"]*' "$copy/log")"
  else
    failed=$((failed + 1))
    echo "FAILED $name: $found"
  fi
  cp "$copy/before" "$copy/$file"
done
echo "$passed passed, $failed failed"
[ $failed -eq 0 ]
