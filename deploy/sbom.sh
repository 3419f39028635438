#!/usr/bin/env bash
# Writes what each of our binaries is made of (CycloneDX, JSON) into sbom/ of the build directory.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
out=${CARGO_TARGET_DIR:-$PWD/target}/sbom
# Binary and the folder of its crate.
binaries=(musterd:services/server muster-agent:crates/agent muster:crates/cli)

# The tool writes beside each manifest, so it gets a copy of the tree.
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
git ls-files -z | tar --null --files-from=- --create | tar --extract --directory "$work"
mkdir -p "$out"
for binary in "${binaries[@]}"; do
  name=${binary%%:*} folder=${binary#*:}
  cargo cyclonedx --quiet --manifest-path "$work/$folder/Cargo.toml" --format json --describe binaries --no-build-deps
  # Where it was made is nobody's business.
  sed "s|$work|/muster|g" "$work/$folder/${name}_bin.cdx.json" >"$out/$name.cdx.json"
  grep -q '"bomFormat": "CycloneDX"' "$out/$name.cdx.json" || { echo "sbom: $name has none" >&2; exit 1; }
  echo "sbom: $(grep -c '"purl"' "$out/$name.cdx.json") components in $out/$name.cdx.json" >&2
done
