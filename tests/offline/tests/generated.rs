//! Generated code is committed; this test regenerates it and compares. `UPDATE=1` rewrites it.

use std::fs;
use std::path::{Path, PathBuf};

use prost::Message as _;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn protos() -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![root().join("proto/muster")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("proto/ can be read") {
            let path = entry.expect("proto/ can be read").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "proto") {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

/// Writes the code and the descriptor set for all of proto/ into `out`.
fn generate(out: &Path) {
    let descriptors = protox::compile(protos(), [root().join("proto")]).expect("proto/ compiles");
    fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec()).expect("it can be written");
    let mut prost = tonic_prost_build::Config::new();
    prost.enable_type_names();
    prost.bytes([
        ".muster.agent.v1.Envelope.payload",
        ".muster.agent.v1.Signature",
        ".muster.agent.v1.PolicyItem.document",
        ".muster.api.v1.UploadChunksRequest.frame",
        ".muster.api.v1.FetchResponse.piece.frame",
    ]);
    tonic_prost_build::configure()
        .out_dir(out)
        .emit_rerun_if_changed(false)
        .compile_fds_with_config(descriptors, prost)
        .expect("code can be generated");
}

#[test]
fn generated_code_is_up_to_date() {
    let fresh = tempfile::tempdir().unwrap();
    generate(fresh.path());
    let committed = root().join("crates/wire/src/gen");
    let mut names: Vec<_> =
        fs::read_dir(fresh.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    let update = std::env::var_os("UPDATE").is_some();
    let mut stale = Vec::new();
    for name in &names {
        let new = fs::read(fresh.path().join(name)).unwrap();
        if fs::read(committed.join(name)).ok().as_deref() != Some(&new[..]) {
            if update {
                fs::write(committed.join(name), new).unwrap();
            } else {
                stale.push(name);
            }
        }
    }
    let mut kept: Vec<_> = fs::read_dir(&committed).unwrap().map(|e| e.unwrap().file_name()).collect();
    kept.sort();
    assert_eq!(kept, names, "crates/wire/src/gen holds what proto/ generates and nothing else");
    assert!(stale.is_empty(), "stale: {stale:?}; run: UPDATE=1 cargo test -p offline --test generated");
}
