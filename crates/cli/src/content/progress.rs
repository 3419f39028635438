//! How far cutting, sending and fetching got: bars on a terminal, nothing elsewhere.

use std::ops::Deref;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// How often it turns.
const TICK: Duration = Duration::from_millis(100);

/// A bar that goes away with what it shows, also when that is stopped.
pub(crate) struct Bar(ProgressBar);

impl Deref for Bar {
    type Target = ProgressBar;

    fn deref(&self) -> &ProgressBar {
        &self.0
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

/// Something that turns while something else is waited for.
pub(crate) fn waiting(visible: bool, what: String) -> Bar {
    let target = if visible { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
    let style =
        ProgressStyle::with_template("{spinner} {msg}, {elapsed}").expect("invariant: the template is valid");
    let bar = ProgressBar::with_draw_target(None, target).with_style(style).with_message(what);
    bar.enable_steady_tick(TICK);
    Bar(bar)
}

/// A bar that counts bytes.
pub(crate) fn bytes(visible: bool, what: &'static str, total: u64) -> Bar {
    let target = if visible { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
    let style = ProgressStyle::with_template(
        "{prefix:8} [{bar:30}] {binary_bytes} of {binary_total_bytes}, {binary_bytes_per_sec}, {eta} left",
    )
    .expect("invariant: the template is valid");
    let bar = ProgressBar::with_draw_target(Some(total), target);
    Bar(bar.with_style(style.progress_chars("=> ")).with_prefix(what))
}
