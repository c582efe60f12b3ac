# What the corpus scripts share: tokenizers and token files. Sourced, not run.
pyramoe=${PYRAMOE:-build/pyramoe}

# The tokenizer whose tokens are bytes, 256 is the end of a text.
byte_tokenizer() { # FOLDER
  mkdir -p "$1"
  [ -e "$1/pyramoe_tokenizer.json" ] ||
    echo '{"format": "pyramoe tokenizer", "version": 1, "kind": "byte", "vocab_size": 257}' \
      >"$1/pyramoe_tokenizer.json"
}

# A byte-level BPE, trained once.
bpe_tokenizer() { # FOLDER VOCABULARY TEXT...
  local folder=$1 vocabulary=$2
  shift 2
  [ -e "$folder/merges.txt" ] && return
  "$pyramoe" tokenize train --vocab-size "$vocabulary" --out "$folder" "$@"
}

# A token file, written whole or not at all. One that exists is kept.
tokens_of() { # TOKENIZER OUT TEXT...
  local tokenizer=$1 out=$2
  shift 2
  [ -e "$out" ] && return
  mkdir -p "$(dirname "$out")"
  "$pyramoe" tokenize prepare --tokenizer "$tokenizer" --out "$out" "$@"
}
