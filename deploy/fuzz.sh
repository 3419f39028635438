#!/usr/bin/env bash
# Gives the targets of tests/fuzz bytes that nobody thought of: all of them for a minute each, or the one that is named
# for so many seconds. What it finds is kept in fuzz/ of the build directory, and the fuzzer says how to run it again.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
wanted=${1:-} seconds=${2:-60}
host=$(rustc --print host-tuple)
out=${CARGO_TARGET_DIR:-$PWD/target}/fuzz

# Counters on each edge and each comparison, which is how libFuzzer sees what an input reached. Overflow and broken
# assumptions are findings as well. Build scripts are left alone, because a target is named.
sancov() { printf -- ' -Cllvm-args=-sanitizer-coverage-%s' "$@"; }
export RUSTFLAGS="-Cpasses=sancov-module$(sancov level=4 inline-8bit-counters pc-table trace-compares)"
export CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_DEBUG_ASSERTIONS=true CARGO_PROFILE_RELEASE_OVERFLOW_CHECKS=true
export CARGO_PROFILE_RELEASE_OPT_LEVEL=1 CARGO_TARGET_DIR=$out/build
cargo build --release --package fuzz --features libfuzzer --target "$host"

for folder in tests/fuzz/corpus/*/; do
  target=$(basename "$folder")
  [ -z "$wanted" ] || [ "$wanted" = "$target" ] || continue
  mkdir -p "$out/found/$target" "$out/broken"
  # What broke it before, until it is mended.
  for broken in "$out/broken/$target-"*; do
    [ -e "$broken" ] || continue
    MUSTER_FUZZ_TARGET=$target "$out/build/$host/release/fuzz" "$broken" 2>/dev/null \
      || { echo "fuzz: $target still breaks with $broken" >&2; exit 1; }
    rm "$broken"
  done
  echo "fuzz: $target for $seconds s" >&2
  MUSTER_FUZZ_TARGET=$target "$out/build/$host/release/fuzz" -max_total_time="$seconds" -max_len=8192 -timeout=10 \
    -rss_limit_mb=1024 -verbosity=0 -print_final_stats=1 -artifact_prefix="$out/broken/$target-" \
    "$out/found/$target" "$folder" 2>&1 | grep -E 'executed_units|new_units|peak_rss|panicked|ERROR|artifact' \
    || { echo "fuzz: $target broke; see $out/broken" >&2; exit 1; }
  ! compgen -G "$out/broken/$target-*" >/dev/null || { echo "fuzz: $target broke: $(ls "$out/broken")" >&2; exit 1; }
done
