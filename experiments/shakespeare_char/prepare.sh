#!/usr/bin/env bash
# Characters and tokens of tinyshakespeare: experiments/shakespeare_char/prepare.sh INPUT.txt
# (the file that nanoGPT's data/shakespeare_char/prepare.py reads).
set -euo pipefail
input=${1:?usage: prepare.sh INPUT.txt [FOLDER]}
out=${2:-runs/shakespeare_char/data}
pyramoe=${PYRAMOE:-build/pyramoe}
"$pyramoe" tokenize train "$input" --kind char --out "$out/tokenizer"
"$pyramoe" tokenize prepare "$input" --tokenizer "$out/tokenizer" --out "$out/train.tok"
