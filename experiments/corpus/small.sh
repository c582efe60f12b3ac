#!/usr/bin/env bash
# Data of the small scale in runs/corpus/small: six domains as tokens of a BPE of 8192, four of them as
# bytes with icons as a fifth (for the experiment on domains). What exists is kept.
#   PYRAMOE, PYRAMOE_CORPUS, PYRAMOE_SHARED: see common.sh
set -euo pipefail
export LC_ALL=C
here=$(cd "$(dirname "$0")" && pwd)
. "$here/common.sh"

out=runs/corpus/small
if ! unpack_texts small "$out/texts"; then
  "$here/small_texts.sh" "$out/texts"
  pixels runs/corpus/packages "$out/texts/pixels.txt"
fi
texts=("$out"/texts/{books,code,dictionary,essays,manuals,talk}.txt)
bpe_tokenizer small "$out/tokenizer" 8192 "${texts[@]}"
for text in "${texts[@]}"; do
  tokens_of "$out/tokenizer" "$out/tokens/$(basename "$text" .txt).tok" "$text"
done
byte_tokenizer runs/corpus/bytes
for domain in books code dictionary essays pixels; do
  tokens_of runs/corpus/bytes "$out/bytes/$domain.tok" "$out/texts/$domain.txt"
done
eval_tasks
