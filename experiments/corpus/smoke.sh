#!/usr/bin/env bash
# Data of the smoke scale: a made-up text as bytes, in runs/corpus/smoke. Needs no network, no
# package beyond perl, a second of time. Kept when it exists.
#   PYRAMOE   the program (build/pyramoe)
set -euo pipefail
export LC_ALL=C
here=$(cd "$(dirname "$0")" && pwd)
. "$here/common.sh"

out=runs/corpus/smoke
byte_tokenizer "$out/bytes"
mkdir -p "$out/texts"
for domain in numbers sentences brackets pixels; do
  [ -e "$out/tokens/$domain.tok" ] && continue
  perl "$here/made_up.pl" "$domain" 24000 >"$out/texts/$domain.txt"
  tokens_of "$out/bytes" "$out/tokens/$domain.tok" "$out/texts/$domain.txt"
done
