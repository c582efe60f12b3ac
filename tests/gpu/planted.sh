#!/usr/bin/env bash
# The CUDA tests must find bugs: each of tests/gpu/planted_bugs.txt is planted alone, gpu_test is
# built with it, and the tests named there must turn red. Sources and build stay as they are.
#   tests/gpu/planted.sh BUILD [WORD]          all bugs, or those with WORD in their name or file
#   tests/gpu/planted.sh --into FOLDER BUILD [WORD]   builds only (no GPU needed) ...
#   tests/gpu/planted.sh --run FOLDER          ... and runs what was built, there or elsewhere
exec python3 "$(dirname "$0")/planted.py" "$@"
