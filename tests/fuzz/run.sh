#!/usr/bin/env bash
# Builds the fuzz targets with clang, replays their corpora and searches on for some seconds each.
#   tests/fuzz/run.sh BUILD [SECONDS_EACH]
set -uo pipefail
cd "$(dirname "$0")/../.."
build=${1:-build-fuzz}
seconds=${2:-60}
targets=$(basename -s .cpp tests/fuzz/fuzz_*.cpp)

CC=clang-14 CXX=clang++-14 cmake -S . -B "$build" -DCMAKE_BUILD_TYPE=Release -DPYRAMOE_FUZZ=ON \
  -DPYRAMOE_TESTS=OFF -DPYRAMOE_SANITIZE=address,undefined,fuzzer-no-link >/dev/null || exit 1
cmake --build "$build" --parallel "$(nproc)" --target $targets >"$build/build.log" 2>&1 || {
  tail -n 40 "$build/build.log"
  exit 1
}
passed=0 failed=0
for target in $targets; do
  corpus=tests/fuzz/corpus/${target#fuzz_}
  found=$(mktemp -d)
  if "$build/$target" -runs=0 "$corpus" >"$build/$target.log" 2>&1 &&
    "$build/$target" -max_total_time="$seconds" -artifact_prefix="$build/" "$found" "$corpus" \
      >>"$build/$target.log" 2>&1; then
    passed=$((passed + 1))
    echo "$target: $(ls "$corpus" | wc -l) inputs replayed, $(grep -oE 'stat::number_of_executed_units: *[0-9]+|Done [0-9]+ runs' "$build/$target.log" | tail -n 1)"
  else
    failed=$((failed + 1))
    echo "$target: FAILED"
    tail -n 30 "$build/$target.log"
  fi
  rm -rf "$found"
done
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
