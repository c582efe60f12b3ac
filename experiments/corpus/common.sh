# What the corpus scripts share. Sourced, not run.
#   PYRAMOE          the program (default build/pyramoe)
#   PYRAMOE_CORPUS   folder that pack.sh made, for machines without network: texts come from there
pyramoe=${PYRAMOE:-build/pyramoe}
packed=${PYRAMOE_CORPUS:-}
shared=${PYRAMOE_SHARED:-../shared/data}

# The tokenizer whose tokens are bytes; 256 is the end of a text.
byte_tokenizer() { # FOLDER
  mkdir -p "$1"
  [ -e "$1/pyramoe_tokenizer.json" ] ||
    echo '{"format": "pyramoe tokenizer", "version": 1, "kind": "byte", "vocab_size": 257}' \
      >"$1/pyramoe_tokenizer.json"
}

# A byte-level BPE: the packed one, else trained once.
bpe_tokenizer() { # SCALE FOLDER VOCABULARY TEXT...
  local from=$packed/corpus_$1/tokenizer folder=$2 vocabulary=$3
  shift 3
  [ -e "$folder/merges.txt" ] && return
  mkdir -p "$folder"
  if [ -n "$packed" ] && [ -e "$from/merges.txt" ]; then
    cp "$from"/* "$folder/"
  else
    "$pyramoe" tokenize train --vocab-size "$vocabulary" --out "$folder" "$@"
  fi
}

# A token file, written whole or not at all. One that exists is kept.
tokens_of() { # TOKENIZER OUT TEXT...
  local tokenizer=$1 out=$2
  shift 2
  [ -e "$out" ] && return
  mkdir -p "$(dirname "$out")"
  "$pyramoe" tokenize prepare --tokenizer "$tokenizer" --out "$out" "$@"
}

# Texts of a scale out of the packed folder, all at once; false where there is none.
unpack_texts() { # SCALE OUT
  local from=$packed/corpus_$1 file name pids=()
  [ -n "$packed" ] && [ -d "$from" ] || return 1
  mkdir -p "$2"
  for file in "$from"/*.txt.xz; do
    name=$(basename "$file" .xz)
    [ -e "$2/$name" ] && continue
    { xz -dc "$file" >"$2/$name.part" && mv "$2/$name.part" "$2/$name"; } &
    pids+=($!)
  done
  for file in "${pids[@]}"; do
    wait "$file" || { echo "corpus: a text in $from is damaged" >&2; exit 3; }
  done
}

# The zero-shot tasks in runs/corpus/eval: packed, or of ../shared.
eval_tasks() {
  local out=runs/corpus/eval file
  mkdir -p "$out"
  if [ -n "$packed" ] && [ -d "$packed/corpus_eval" ]; then
    for file in "$packed"/corpus_eval/*.xz; do
      [ -e "$out/$(basename "$file" .xz)" ] || xz -dc "$file" >"$out/$(basename "$file" .xz)"
    done
  elif [ -d "$shared/eval" ]; then
    cp -n "$shared"/eval/* "$out/"
  else
    echo "corpus: there is no $shared/eval: zero-shot tasks are left out"
  fi
}

# 16 x 16 grey icons as bytes, in TEXT.
pixels() { # FOLDER_FOR_PACKAGES TEXT
  [ -e "$2" ] && return
  local here
  here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
  "$here/packages.sh" "$1" oxygen-icon-theme mate-icon-theme gnome-icon-theme tango-icon-theme
  mkdir -p "$(dirname "$2")"
  python3 "$here/pixels.py" "$1"/{oxygen,mate,gnome,tango}-icon-theme >"$2.part"
  mv "$2.part" "$2"
}
