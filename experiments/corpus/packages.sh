#!/usr/bin/env bash
# Unpacks Debian packages, without installing them: FOLDER/PACKAGE is the root of what a package
# would install. One that is there is kept.
#   experiments/corpus/packages.sh FOLDER PACKAGE...
set -euo pipefail
folder=${1:?usage: packages.sh FOLDER PACKAGE...}
shift
mkdir -p "$folder"
for package in "$@"; do
  [ -d "$folder/$package" ] && continue
  rm -rf "$folder/$package.part" && mkdir "$folder/$package.part"
  (
    cd "$folder/$package.part"
    apt-get download -q "$package" >/dev/null 2>&1 || {
      echo "corpus: apt-get could not download $package; is this Debian, with a network?" >&2
      exit 3
    }
    dpkg-deb -x ./*.deb . && rm -f ./*.deb
  )
  mv "$folder/$package.part" "$folder/$package"
done
