#!/usr/bin/env bash
# Packs the data of the scales cpu and small for a machine without network: texts and tasks under
# `xz -9`, tokenizers as they are. There, PYRAMOE_CORPUS=FOLDER makes the scripts take them.
#   experiments/corpus/pack.sh FOLDER
set -euo pipefail
folder=${1:?usage: pack.sh FOLDER}
here=$(cd "$(dirname "$0")" && pwd)
"$here/cpu.sh"
"$here/small.sh"

pack() { # OUT FILE...
  local out=$1 file
  shift
  mkdir -p "$out"
  for file in "$@"; do
    [ -e "$out/$(basename "$file").xz" ] && continue
    xz -9 -c "$file" >"$out/part" && mv "$out/part" "$out/$(basename "$file").xz"
  done
}

for scale in cpu small; do
  mkdir -p "$folder/corpus_$scale"
  rm -rf "$folder/corpus_$scale/tokenizer"
  cp -r "runs/corpus/$scale/tokenizer" "$folder/corpus_$scale/tokenizer"
done
pack "$folder/corpus_cpu" runs/corpus/cpu/corpus/*.txt
pack "$folder/corpus_small" runs/corpus/small/texts/*.txt
pack "$folder/corpus_eval" runs/corpus/eval/*
du -sh "$folder"/corpus_*
