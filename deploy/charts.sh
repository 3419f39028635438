#!/usr/bin/env bash
# Packages the charts into target/charts, or the folder that is named: the same bytes for the same commit. An archive carries
# the times of its files, so all of them get that of the commit, or SOURCE_DATE_EPOCH. MUSTER_CHART_KEY names the PGP key that
# signs them, MUSTER_CHART_KEYRING the file with it.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

out=${1:-${CARGO_TARGET_DIR:-target}/charts}
fail() { printf 'charts: %s\n' "$*" >&2; exit 1; }
command -v helm >/dev/null || fail "helm is missing: make tools-cluster builds it, or put Helm 4 on PATH"
time=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}
sign=()
if [ -n "${MUSTER_CHART_KEY:-}" ]; then
  sign=(--sign --key "$MUSTER_CHART_KEY" --keyring "${MUSTER_CHART_KEYRING:?the file with the key that signs}")
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# What Git knows, as it lies here: nothing that an editor left goes into a release.
git ls-files -z helm | tar --create --null --files-from=- --mtime="@$time" | tar --extract --directory "$work"
mkdir -p "$out"
rm -f "$out"/muster*.tgz "$out"/muster*.tgz.prov
helm lint --strict --quiet "$work"/helm/*
helm package "$work"/helm/* --destination "$out" "${sign[@]}" >/dev/null
cd "$out"
sha256sum muster*.tgz
