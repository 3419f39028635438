//! A program that is started for one thing and ends, as a span: conventions of OpenTelemetry for command lines.

use std::env;

use opentelemetry::context::FutureExt as _;
use opentelemetry::trace::{SpanKind, Status, TraceContextExt as _, Tracer as _};
use opentelemetry::{Context, KeyValue};
use wire::trace::TraceParent;

use super::spans;

/// Names the place in a trace to which a command belongs, where it is a part of something larger.
const PARENT: &str = "TRACEPARENT";

/// The place in a trace to which this process belongs, if somebody names it.
#[must_use]
pub fn parent() -> Option<TraceParent> {
    env::var(PARENT).ok()?.parse().ok()
}

/// What a command does from its start to its end: the root of a trace, or a part of what the variable `TRACEPARENT`
/// names. Where no spans are made it is nothing.
#[derive(Debug, Clone)]
pub struct Command(Option<Context>);

impl Command {
    /// Begins now. `name` is the program and the words that say what it does, as in `muster content push`; arguments may
    /// be secrets and are told nobody.
    #[must_use]
    pub fn begin(name: impl Into<String>) -> Self {
        let Some(tracer) = spans::tracer() else { return Self(None) };
        let name = name.into();
        let program = name.split(' ').next().unwrap_or_default().to_owned();
        let attributes = vec![
            KeyValue::new("process.executable.name", program),
            KeyValue::new("process.pid", i64::from(std::process::id())),
        ];
        let builder = tracer.span_builder(name).with_kind(SpanKind::Internal).with_attributes(attributes);
        let above = parent().map_or_else(Context::new, |parent| {
            Context::new().with_remote_span_context(spans::remote(parent))
        });
        Self(Some(Context::new().with_span(tracer.build_with_context(builder, &above))))
    }

    /// Does something as a part of the command. What that starts as tasks of its own is none.
    pub async fn within<F: Future>(&self, work: F) -> F::Output {
        match &self.0 {
            Some(context) => work.with_context(context.clone()).await,
            None => work.await,
        }
    }

    /// The same for what is done at once.
    pub fn now<T>(&self, work: impl FnOnce() -> T) -> T {
        let _within = self.0.clone().map(Context::attach);
        work()
    }

    /// It has ended; the first call counts. `failure` says in few words that do not vary why, if it failed.
    pub fn ended(&self, exit_code: u8, failure: Option<&'static str>) {
        let Some(context) = &self.0 else { return };
        let span = context.span();
        span.set_attribute(KeyValue::new("process.exit.code", i64::from(exit_code)));
        if let Some(failure) = failure {
            span.set_status(Status::error(""));
            span.set_attribute(KeyValue::new("error.type", failure));
        }
        span.end();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn without_a_collector_a_command_is_nothing_but_its_work() {
        let command = Command::begin("muster apply");
        assert!(command.0.is_none());
        let done = command.within(async { 1 }).await;
        assert_eq!((done, command.now(|| 2)), (1, 2));
        command.ended(3, Some("x"));
    }
}
