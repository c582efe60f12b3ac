#!/usr/bin/env bash
# Assembles the demo's corpus from Debian text packages: one plain text a domain, documents parted
# by lines "<|endoftext|>". The same packages give the same bytes. A domain that exists is kept.
#
#   experiments/demo/corpus.sh build/demo
#
# Every file is found through its package, so nothing else on the machine gets in. Where dpkg is
# told to leave out /usr/share/doc (slim container images), the package is unpacked into a folder.
set -euo pipefail
export LC_ALL=C

root=$(cd "$(dirname "$0")/../.." && pwd)
demo=${1:?usage: corpus.sh FOLDER}
corpus=$demo/corpus
filter=$root/experiments/demo/documents.pl
cap_mb=6 # of each domain

packages=(perl bible-kjv bible-kjv-text perl-doc libpython3-stdlib fortunes fortunes-min
  dict-gcide anarchism)
domains=(bible code dictionary essays manuals quotes)

# Where a package's files start: nothing when they are installed, else a folder with its content.
prefix_of() { # PACKAGE FILE
  if [ -e "$2" ]; then
    return
  fi
  local folder
  folder=$(cd "$demo" && pwd)/debs/$1
  if [ ! -e "$folder$2" ]; then
    rm -rf "$folder" && mkdir -p "$folder"
    (cd "$folder" && apt-get download -q "$1" >&2 && dpkg-deb -x ./*.deb . && rm -f ./*.deb)
  fi
  printf '%s' "$folder"
}

# The package's files whose names match, sorted, one a line.
files_of() { # PACKAGE REGEX
  local names prefix
  names=$(dpkg-query -L "$1" | grep -E -- "$2" | sort)
  if [ -z "$names" ]; then
    echo "corpus: package $1 has no file like $2" >&2
    exit 3
  fi
  prefix=$(prefix_of "$1" "${names%%$'\n'*}")
  sed "s|^|$prefix|" <<<"$names"
}

# The names of the packages that hold Python's library: they carry the version.
python_packages() {
  dpkg-query -W -f '${db:Status-Abbrev} ${Package}\n' 'libpython3.*-minimal' 'libpython3.*-stdlib' |
    sed -n 's/^ii  *//p' | sort -u
}

make_domain() { # NAME: text on stdout
  case $1 in
    bible) bible -f Gen1:1-Rev22:21 | perl "$filter" bible ;;
    code)
      for package in $(python_packages); do
        files_of "$package" '^/usr/lib/python3\.[0-9]+/.*\.py$'
      done | perl "$filter" files
      ;;
    dictionary) gzip -dc <"$(files_of dict-gcide '/gcide\.dict\.dz$')" | perl "$filter" gcide ;;
    essays)
      files_of anarchism '/html/[a-zA-Z0-9]+\.html$' | grep -v links | perl "$filter" html
      ;;
    manuals)
      files_of perl-doc '/pod/perl.*\.pod$' | grep -vE 'delta\.pod$|perl(cn|jp|ko|tw|toc)\.pod$' |
        perl "$filter" pod
      ;;
    quotes)
      for package in fortunes fortunes-min; do
        files_of "$package" '/games/fortunes/[a-z-]+$'
      done |
        grep -vE '/(ethnic|men-women|drugs|art|ascii-art|translate-me)$' | perl "$filter" fortunes
      ;;
  esac
}

missing=()
for domain in "${domains[@]}"; do
  [ -s "$corpus/$domain.txt" ] || missing+=("$domain")
done
[ ${#missing[@]} -eq 0 ] && exit 0

DEPS="${DEPS:-}" "$root/cmake/install_deps.sh" "${packages[@]}"
mkdir -p "$corpus"
for domain in "${missing[@]}"; do
  make_domain "$domain" | perl "$filter" pack $((cap_mb * 1000000)) >"$corpus/$domain.part"
  [ -s "$corpus/$domain.part" ] || { echo "corpus: no text for $domain" >&2; exit 3; }
  mv "$corpus/$domain.part" "$corpus/$domain.txt"
done
wc -c "$corpus"/*.txt | awk '{ n = split($2, path, "/"); name = path[n]; sub(/\.txt$/, "", name)
  printf "  %-12s %5.1f MB\n", name, $1 / 1e6 }'
