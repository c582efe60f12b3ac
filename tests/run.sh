#!/usr/bin/env bash
# Runs every test of a build folder, then prints the ten slowest and one closing line.
#   tests/run.sh BUILD [ctest options]
set -uo pipefail
build=$1
shift
export PYRAMOE_FILL_NAN=1   # memory nobody wrote is NaN, so that reading it shows
export GTEST_BRIEF=1
log=$(mktemp)
ctest --test-dir "$build" --output-on-failure --no-tests=error -j "$(nproc)" "$@" >"$log" 2>&1
code=$?
grep -vE '^ *[0-9]+/[0-9]+ Test|^ +Start ' "$log" | grep -vE '^$' | head -n 400
echo "slowest tests:"
grep -E '^ *[0-9]+/[0-9]+ Test' "$log" | sed -E 's/^.*Test +#[0-9]+: +([^ ]+) .* ([0-9.]+) sec.*$/\2 s  \1/' |
  sort -rn | head -n 10
passed=$(grep -cE '^ *[0-9]+/[0-9]+ Test .* Passed +[0-9.]+ sec' "$log")
skipped=$(grep -cE '^ *[0-9]+/[0-9]+ Test .*\*\*\*Skipped' "$log")
failed=$(grep -cE '^ *[0-9]+/[0-9]+ Test .*\*\*\*(Failed|Timeout|Exception|Not Run)' "$log")
rm -f "$log"
echo "$passed passed, $failed failed, $skipped skipped"
exit $code
