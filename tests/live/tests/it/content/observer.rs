//! Looks at what is in force on an agent all the time.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use live::Tree;

/// Pause between two looks: short beside the steps of an apply, so that a state between old and new is seen.
const PAUSE: Duration = Duration::from_millis(2);

/// Reads the tree in force again and again, on a thread of its own.
pub(crate) struct Observer {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Vec<usize>>>,
}

impl Observer {
    /// Watches a link that may be absent until it leads to one of these trees for the first time.
    pub(crate) fn watch(link: PathBuf, allowed: &[&Tree]) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let allowed: Vec<Tree> = allowed.iter().map(|&tree| tree.clone()).collect();
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            let mut seen: Vec<usize> = Vec::new();
            while !stopped.load(Ordering::Relaxed) {
                std::thread::sleep(PAUSE);
                let Some(tree) = Tree::observe(&link) else {
                    assert!(seen.is_empty(), "there was content in force, and then none");
                    continue;
                };
                let at = allowed.iter().position(|one| *one == tree);
                let at = at.unwrap_or_else(|| panic!("neither old nor new: {tree:?}\nallowed: {allowed:?}"));
                if seen.last() != Some(&at) {
                    seen.push(at);
                }
            }
            seen
        });
        Self { stop, thread: Some(thread) }
    }

    /// Which of the trees were in force, in the order in which they were seen.
    pub(crate) fn seen(mut self) -> Vec<usize> {
        self.stop.store(true, Ordering::Relaxed);
        let ended = self.thread.take().expect("it is taken once").join();
        ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

impl Drop for Observer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}
