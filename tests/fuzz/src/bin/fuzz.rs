//! The fuzzer: `MUSTER_FUZZ_TARGET=envelope fuzz CORPUS…`, with libFuzzer's own options. `make fuzz` runs all targets.
#![no_main]

use std::sync::LazyLock;

use fuzz::Target;

static TARGET: LazyLock<Target> = LazyLock::new(|| {
    let name = std::env::var("MUSTER_FUZZ_TARGET").unwrap_or_default();
    let known = || fuzz::TARGETS.map(|(name, _)| name).join(", ");
    let found = fuzz::TARGETS.iter().find(|(target, _)| *target == name);
    found.unwrap_or_else(|| panic!("MUSTER_FUZZ_TARGET must be one of {}", known())).1
});

libfuzzer_sys::fuzz_target!(|data: &[u8]| TARGET(data));
