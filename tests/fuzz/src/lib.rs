//! What strangers can hand to Muster, taken with any bytes whatever: nothing may panic, take unbounded time or memory,
//! or come back as something else than it was. Each target is a plain function; the fuzzer calls it with bytes that
//! it makes up, and a test with the corpus.
//!
//! A finding becomes a file of the corpus and a test beside the code that it was found in.

mod files;
mod wires;

/// Takes any bytes. It panics when something does not hold that should.
pub type Target = fn(&[u8]);

/// All targets by name; each has a folder in `corpus`.
pub const TARGETS: [(&str, Target); 14] = [
    ("broker", wires::broker),
    ("config", files::config),
    ("content", wires::content),
    ("envelope", wires::envelope),
    ("frame", wires::frame),
    ("heartbeat", wires::heartbeat),
    ("join", wires::join),
    ("jwt", wires::jwt),
    ("manifest", wires::manifest),
    ("root", wires::root),
    ("snapshot", wires::snapshot),
    ("state", files::state),
    ("store", wires::store),
    ("subject", wires::subject),
];
