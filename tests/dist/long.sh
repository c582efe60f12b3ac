#!/usr/bin/env bash
# What `make test` does in small, in full: every layout of 2, 4 and 8 ranks for twenty steps of both
# optimizers, 200 fuzzed cases, 60 faults, 200 kills, and the planted bugs that the fuzzer must find.
#   tests/dist/long.sh BUILD [layouts faults kills planted]     all four by default
set -uo pipefail
build=$1
shift
[ $# -gt 0 ] || set -- layouts faults kills planted
parts=" $* "
wanted() { [[ $parts == *" $1 "* ]]; }
here=$(dirname "$0")
passed=0 failed=0
check() {
  local name=$1
  shift
  if "$@"; then
    passed=$((passed + 1))
  else
    failed=$((failed + 1))
    echo "FAILED $name"
  fi
}
export PYRAMOE_FUZZ_CASES=67 PYRAMOE_FILL_NAN=1 GTEST_BRIEF=1
for ranks in 2 4 8; do
  wanted layouts || continue
  check "$ranks ranks" env PYRAMOE_THREADS=1 PYRAMOE_THOROUGH=1 mpirun --allow-run-as-root --oversubscribe \
    --bind-to none -np $ranks "$build/dist_test"
done
! wanted faults || check faults "$here/faults.sh" "$build" 60
! wanted kills || check kills "$here/kills.sh" "$build" 200
! wanted planted || check planted "$here/planted.sh"
echo "$passed passed, $failed failed"
[ $failed -eq 0 ]
