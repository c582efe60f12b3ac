#!/usr/bin/env bash
# Installs the packages that building and testing need, where they are missing. Debian and Ubuntu
# through apt (with sudo when not root); elsewhere it prints what to install. DEPS=skip: nothing.
set -euo pipefail
[ "${DEPS:-}" != skip ] || exit 0

packages=(g++ make cmake ninja-build pkg-config libeigen3-dev libgtest-dev libfmt-dev
  nlohmann-json3-dev libtomlplusplus-dev libcli11-dev libpcre2-dev zlib1g-dev libopenmpi-dev openmpi-bin)
packages+=("$@")

if ! command -v dpkg-query >/dev/null; then
  echo "This is not a Debian system. Please install the equivalents of these packages, then run the"
  echo "same command again with DEPS=skip:"
  printf '  %s\n' "${packages[@]}"
  exit 2
fi

missing=()
for package in "${packages[@]}"; do
  state=$(dpkg-query -W -f '${Status}' "$package" 2>/dev/null || true)
  [ "$state" = "install ok installed" ] || missing+=("$package")
done
[ ${#missing[@]} -eq 0 ] && exit 0

echo "installing: ${missing[*]}"
as_root=()
if [ "$(id -u)" -ne 0 ]; then
  if ! command -v sudo >/dev/null; then
    echo "Please run as root: apt-get install ${missing[*]}"
    exit 2
  fi
  as_root=(sudo)
fi
log=$(mktemp)
if ! { "${as_root[@]}" apt-get update -q &&
  DEBIAN_FRONTEND=noninteractive "${as_root[@]}" apt-get install -y -q --no-install-recommends \
    "${missing[@]}"; } >"$log" 2>&1; then
  tail -n 20 "$log"
  echo "apt-get could not install: ${missing[*]} (full log: $log)"
  exit 2
fi
rm -f "$log"
