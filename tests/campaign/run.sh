#!/usr/bin/env bash
# The long campaigns: the loops of cli_test run to their end instead of a sample. One line each, and
# one that counts.
#   tests/campaign/run.sh BUILD
set -uo pipefail
build=$1
export PYRAMOE_CAMPAIGN=1
export GTEST_BRIEF=1
passed=0
failed=0
log=$(mktemp)
trap 'rm -f "$log"' EXIT

# campaign NAME FILTER
campaign() {
  local begin=$SECONDS detail
  if timeout 300 "$build/cli_test" --gtest_filter="$2" >"$log" 2>&1 &&
    ! grep -q 'Running 0 tests\|0 tests ran' "$log"; then
    passed=$((passed + 1))
    detail=$(grep -E ' flipped, each noticed$' "$log" | tail -n 1)
    echo "passed  $((SECONDS - begin)) s  $1${detail:+ ($detail)}"
  else
    failed=$((failed + 1))
    echo "FAILED  $((SECONDS - begin)) s  $1"
    tail -n 40 "$log"
  fi
}

campaign 'killed at every operation of a resumed run'       'SaveFaults.KilledAtEveryOperation*'
campaign 'killed at every operation of a fresh run'         'SaveFaults.KilledBeforeTheFirst*'
campaign 'disk full or failing at every operation'          'SaveFaults.FullOrFailingDisk*'
campaign '500 real SIGKILLs at random times'                'SaveFaults.RealKills*'
campaign 'every truncation of a checkpoint'                 'CheckpointDamage.EveryTruncation*'
campaign 'every single-bit flip of a checkpoint'            'CheckpointDamage.EveryFlippedBit*'
campaign 'every single-bit flip of a token file'            'DataFaults.EveryFlippedBit*'
campaign 'every allocation of a step failing'               'MemoryFaults.Any*'
campaign 'stopped by signals at random times, many times'   'Stop.AtAnyTime*:Stop.ASecondSignal*'
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
