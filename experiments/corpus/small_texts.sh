#!/usr/bin/env bash
# Texts of the small scale: six domains, about 160 MB, out of Debian packages and, where it exists,
# ../shared/data/text (without it a note is printed, and there are 32 million tokens instead of 46).
# Documents of a domain are mixed by a fixed stride, so that its end, the validation part, is a sample
# of all. A domain that exists is kept.
#   experiments/corpus/small_texts.sh FOLDER
set -euo pipefail
export LC_ALL=C
folder=${1:?usage: small_texts.sh FOLDER}
here=$(cd "$(dirname "$0")" && pwd)
. "$here/common.sh"
filter=$here/../demo/documents.pl
packages=$folder/../../packages
demo=$folder/../../cpu # the demo's corpus, whose bible and quotes are whole

# Files of a package that match, sorted: names on stdout.
files_of() { # PACKAGE REGEX
  find "$packages/$1" -type f | grep -E -- "$2" | sort
}

# Documents of a dictionary in dictd's form.
dictionary_of() { # PACKAGE
  gzip -dc <"$(files_of "$1" '\.dict\.dz$')" | perl "$filter" gcide
}

# A text of ../shared, in chapters.
shared_text() { # NAME
  if [ -e "$shared/text/$1.txt.gz" ]; then
    gzip -dc "$shared/text/$1.txt.gz" | perl "$here/parts.pl" chapters
  else
    echo "corpus: there is no $shared/text/$1.txt.gz: left out" >&2
  fi
}

make_domain() { # NAME: documents on stdout
  local text
  case $1 in
    books)
      perl "$here/parts.pl" chapters <"$demo/corpus/bible.txt"
      for text in novels adventure_scifi nonfiction; do shared_text "$text"; done
      ;;
    code)
      for text in libpython3.11-minimal libpython3.11-stdlib; do
        files_of "$text" '/python3\.[0-9]+/.*\.py$'
      done | perl "$filter" files
      ;;
    dictionary)
      dictionary_of dict-gcide | perl "$filter" pack 20000000 | perl "$here/parts.pl" chapters
      dictionary_of dict-foldoc
      cat "$packages"/wordnet-base/usr/share/wordnet/data.{noun,verb,adj,adv} |
        perl "$here/parts.pl" wordnet
      ;;
    essays) files_of anarchism '/html/[a-zA-Z0-9]+\.html$' | grep -v links | perl "$filter" html ;;
    manuals)
      files_of perl-doc '/pod/perl.*\.pod$' | grep -vE 'delta\.pod$|perl(cn|jp|ko|tw|toc)\.pod$' |
        perl "$filter" pod
      files_of python3.11-doc '/_sources/.*\.rst\.txt$' | perl "$filter" files
      files_of linux-doc-6.1 '/_sources/.*\.rst\.txt$' | grep -v translations | perl "$filter" files
      files_of git-doc '\.txt$' | perl "$filter" files
      ;;
    talk)
      perl "$here/parts.pl" chapters <"$demo/corpus/quotes.txt"
      dictionary_of dict-jargon
      for text in reviews speeches; do shared_text "$text"; done
      ;;
  esac
}

"$here/../demo/corpus.sh" "$demo"
"$here/packages.sh" "$packages" libpython3.11-minimal libpython3.11-stdlib dict-gcide dict-foldoc \
  dict-jargon wordnet-base anarchism perl-doc python3.11-doc linux-doc-6.1 git-doc
mkdir -p "$folder"
for domain in books code dictionary essays manuals talk; do
  [ -s "$folder/$domain.txt" ] && continue
  make_domain "$domain" | perl "$filter" pack 100000000 >"$folder/$domain.part"
  [ -s "$folder/$domain.part" ] || { echo "corpus: no text for $domain" >&2; exit 3; }
  mv "$folder/$domain.part" "$folder/$domain.txt"
done
