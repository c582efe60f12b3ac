#!/usr/bin/env bash
# Data of the cpu scale in runs/corpus/cpu: the demo's six domains as tokens of a BPE of 2048, four of
# them as bytes with icons as a fifth (for the experiment on domains). What exists is kept.
#   PYRAMOE, PYRAMOE_CORPUS, PYRAMOE_SHARED: see common.sh
set -euo pipefail
export LC_ALL=C
here=$(cd "$(dirname "$0")" && pwd)
. "$here/common.sh"

out=runs/corpus/cpu
if ! unpack_texts cpu "$out/corpus"; then
  "$here/../demo/corpus.sh" "$out"
  pixels runs/corpus/packages "$out/corpus/pixels.txt"
fi
texts=("$out"/corpus/{bible,code,dictionary,essays,manuals,quotes}.txt)
bpe_tokenizer cpu "$out/tokenizer" 2048 "${texts[@]}"
for text in "${texts[@]}"; do
  tokens_of "$out/tokenizer" "$out/tokens/$(basename "$text" .txt).tok" "$text"
done
byte_tokenizer runs/corpus/bytes
for domain in bible code dictionary essays pixels; do
  tokens_of runs/corpus/bytes "$out/bytes/$domain.tok" "$out/corpus/$domain.txt"
done
eval_tasks
