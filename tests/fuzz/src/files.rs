//! Bytes from disks: configuration that people wrote, and what an agent kept.

use std::cell::RefCell;
use std::ffi::OsString;
use std::path::Path;

use agent::cli::{Cli, TABLES};
use agent::{CommandHandler, DiskStorage, LiveTrust, Shown};
use domain::Digest;
use tempfile::TempDir;

use crate::wires;

thread_local! {
    /// A directory for the files of this thread.
    static DIR: RefCell<TempDir> = RefCell::new(tempfile::tempdir().expect("a temporary directory can be made"));
}

fn with_dir(task: impl FnOnce(&Path)) {
    DIR.with_borrow(|dir| task(dir.path()));
}

fn put(path: &Path, bytes: &[u8]) {
    std::fs::write(path, bytes).expect("a file can be written");
}

/// A configuration file of an agent, with its tables of handlers.
pub(crate) fn config(data: &[u8]) {
    with_dir(|dir| {
        let path = dir.join("agent.toml");
        put(&path, data);
        let args = ["muster-agent".into(), "run".into(), "--config".into(), OsString::from(&path)];
        let Ok((_, tables)) = runtime::config::try_parse_from::<Cli>(args, TABLES) else { return };
        let handlers = CommandHandler::from_table(tables.get("handlers"), dir.to_owned());
        drop(handlers.and_then(|handlers| handlers.with_content(tables.get("content"))));
    });
}

/// The files of an agent's state directory: as they are, and with a checksum that holds.
pub(crate) fn state(data: &[u8]) {
    let trust = LiveTrust::new(wires::chain());
    let sealed = [format!("muster-sealed-1 {}\n", Digest::of(data)).as_bytes(), data].concat();
    with_dir(|dir| {
        for (name, bytes) in [
            ("state.json", data),
            ("state.json", &sealed),
            ("assignment.envelope", data),
            ("status.json", data),
            ("status.json", &sealed),
        ] {
            put(&dir.join(name), bytes);
            let (_, loaded) = DiskStorage::open(dir, &trust, Digest::default()).expect("it starts anyway");
            assert_eq!(loaded.active, None, "nobody signed anything");
            drop(Shown::read(dir));
        }
    });
}
