//! Spans: what a call, a change and a message on its way look like in a trace. Names and attributes follow the semantic
//! conventions of OpenTelemetry, for RPC as they became stable; names hold no ids.
//!
//! Services trust each other's contexts and those of callers who passed the gate: such a context is a parent. What an
//! agent or the broker says is a link at most: the span is a root of its own.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::SystemTime;

use domain::Revision;
use opentelemetry::trace::{
    Link, Span as _, SpanContext, SpanId, SpanKind, Status, TraceContextExt as _, TraceFlags, TraceId,
    TraceState, Tracer as _,
};
use opentelemetry::{Context, KeyValue};
use opentelemetry_sdk::trace::{SamplingDecision, SamplingResult, SdkTracer, ShouldSample};
use tonic::Code;
use tonic::metadata::MetadataMap;
use tracing::Span;
use tracing::field::Empty;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;
use wire::trace::{TRACEPARENT, TraceParent};

use super::MAX_LINKS;

/// Target of all spans that become spans of a trace.
pub(super) const TARGET: &str = "muster::trace";

static TRACER: OnceLock<SdkTracer> = OnceLock::new();

/// Agents of a million that tell how a change went.
static SHARE: AtomicU32 = AtomicU32::new(0);

/// Spans are made from now on, by this percentage of agents.
pub(super) fn begin(tracer: SdkTracer, percent: f64) {
    let _first = TRACER.set(tracer);
    // From 0 to a million: the percentage is checked.
    let whole = (0..=1_000_000).rev().step_by(100).find(|share| f64::from(*share) <= percent * 10_000.0);
    SHARE.store(whole.unwrap_or(0), Ordering::Relaxed);
}

/// Makes spans, where they are made.
pub(super) fn tracer() -> Option<&'static SdkTracer> {
    TRACER.get()
}

/// Agents of a million that tell how a change went, where nothing failed.
#[must_use]
pub fn share() -> u32 {
    SHARE.load(Ordering::Relaxed)
}

/// Whether spans are made.
#[must_use]
pub fn on() -> bool {
    TRACER.get().is_some()
}

/// The place in a trace where this code runs; `None` outside of a trace.
#[must_use]
pub fn current() -> Option<TraceParent> {
    on().then(|| traceparent(Context::current().span().span_context()))?
}

/// The trace of a call: its own, which is the caller's if that named one. Without telemetry only the caller knows one.
#[must_use]
pub fn trace_id(caller: &MetadataMap) -> Option<[u8; 16]> {
    let asked = || wire::trace::trace_id(caller.get(TRACEPARENT)?.to_str().ok()?);
    current().map(|place| place.trace_id).or_else(asked)
}

/// The place in a trace that a span is. From here on its parent cannot be changed.
#[must_use]
pub fn place(span: &Span) -> Option<TraceParent> {
    (!span.is_none()).then(|| traceparent(span.context().span().span_context()))?
}

fn traceparent(context: &SpanContext) -> Option<TraceParent> {
    context.is_valid().then(|| TraceParent {
        trace_id: context.trace_id().to_bytes(),
        span_id: context.span_id().to_bytes(),
        sampled: context.is_sampled(),
    })
}

pub(super) fn remote(place: TraceParent) -> SpanContext {
    let flags = if place.sampled { TraceFlags::SAMPLED } else { TraceFlags::default() };
    let (trace, span) = (TraceId::from_bytes(place.trace_id), SpanId::from_bytes(place.span_id));
    SpanContext::new(trace, span, flags, true, TraceState::default())
}

/// A call of the API. `parent` is what a caller sent who passed the gate.
#[must_use]
pub fn rpc(method: &'static str, parent: Option<TraceParent>) -> Span {
    if !on() {
        return Span::none();
    }
    let span = tracing::info_span!(
        target: TARGET, parent: None, "rpc",
        otel.name = method, otel.kind = "server", otel.status_code = Empty,
        rpc.system.name = "grpc", rpc.method = method, rpc.status_code = Empty, error.type = Empty,
    );
    come_after(&span, parent);
    span
}

/// How a call ended: `code` is the name of its status.
pub fn rpc_ended(span: &Span, code: &'static str) {
    span.record("rpc.status_code", code);
    // Of all that the caller may be to blame for, the server is not.
    if matches!(
        code,
        "UNKNOWN" | "DEADLINE_EXCEEDED" | "UNIMPLEMENTED" | "INTERNAL" | "UNAVAILABLE" | "DATA_LOSS"
    ) {
        span.record("otel.status_code", "ERROR");
        span.record("error.type", code);
    }
}

/// A call to a server at this host and port, below where this code runs.
#[must_use]
pub fn call(method: &'static str, server: Option<&(String, u16)>) -> Span {
    if !on() {
        return Span::none();
    }
    let span = tracing::info_span!(
        target: TARGET, "call",
        otel.name = method, otel.kind = "client", otel.status_code = Empty,
        rpc.system.name = "grpc", rpc.method = method, rpc.status_code = Empty, error.type = Empty,
        server.address = Empty, server.port = Empty,
    );
    if let Some((host, port)) = server {
        span.record("server.address", host);
        span.record("server.port", i64::from(*port));
    }
    span
}

/// How that call ended: `code` is the name of its status. Whoever calls got what it wanted or did not.
pub fn call_ended(span: &Span, code: &'static str) {
    span.record("rpc.status_code", code);
    if code != "OK" {
        failed(span, code);
    }
}

/// Name of a status, as gRPC writes it.
#[must_use]
pub fn code(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

/// Work within a service, below where this code runs.
#[must_use]
pub fn work(name: &'static str) -> Span {
    if !on() {
        return Span::none();
    }
    tracing::info_span!(
        target: TARGET, "work",
        otel.name = name, otel.kind = "internal", otel.status_code = Empty,
        error.type = Empty, muster.revision = Empty, muster.groups = Empty,
    )
}

/// Work that another service's message brought, below `parent`; a root of its own without one.
#[must_use]
pub fn work_after(name: &'static str, parent: Option<TraceParent>) -> Span {
    if !on() {
        return Span::none();
    }
    let span = tracing::info_span!(
        target: TARGET, parent: None, "work",
        otel.name = name, otel.kind = "internal", otel.status_code = Empty,
        error.type = Empty, muster.revision = Empty, muster.groups = Empty,
    );
    come_after(&span, parent);
    span
}

/// A publish below where this code runs.
#[must_use]
pub fn publish(template: &'static str) -> Span {
    if !on() {
        return Span::none();
    }
    tracing::info_span!(
        target: TARGET, "publish",
        otel.name = format!("publish {template}"), otel.kind = "producer", otel.status_code = Empty,
        messaging.system = "nats", messaging.operation.name = "publish", messaging.operation.type = "send",
        messaging.destination.template = template, messaging.batch.message_count = Empty,
        error.type = Empty, muster.revision = Empty,
    )
}

/// A publish of what `causes` led to: below the only one, or a root of its own that is linked to all of them.
#[must_use]
pub fn publish_for(template: &'static str, causes: &[TraceParent]) -> Span {
    if !on() {
        return Span::none();
    }
    let span = tracing::info_span!(
        target: TARGET, parent: None, "publish",
        otel.name = format!("publish {template}"), otel.kind = "producer", otel.status_code = Empty,
        messaging.system = "nats", messaging.operation.name = "publish", messaging.operation.type = "send",
        messaging.destination.template = template, messaging.batch.message_count = Empty,
        error.type = Empty, muster.revision = Empty,
    );
    match causes {
        [cause] => come_after(&span, Some(*cause)),
        many => many.iter().take(MAX_LINKS as usize).for_each(|cause| span.add_link(remote(*cause))),
    }
    span
}

/// What revision it was about.
pub fn revision(span: &Span, revision: Revision) {
    // What is unsigned would be told as a text.
    span.record("muster.revision", i64::try_from(revision.0).unwrap_or(i64::MAX));
}

/// Over how many groups it went.
pub fn groups(span: &Span, groups: usize) {
    span.record("muster.groups", i64::try_from(groups).unwrap_or(i64::MAX));
}

/// A publish of so many messages, which is said of several only.
pub fn batch(span: &Span, messages: usize) {
    if messages > 1 {
        span.record("messaging.batch.message_count", i64::try_from(messages).unwrap_or(i64::MAX));
    }
}

/// What was under way failed; `kind` says how, in few words that do not vary.
pub fn failed(span: &Span, kind: &'static str) {
    span.record("otel.status_code", "ERROR");
    span.record("error.type", kind);
}

fn come_after(span: &Span, parent: Option<TraceParent>) {
    if let Some(parent) = parent {
        let context = Context::new().with_remote_span_context(remote(parent));
        // A span that is filtered out has no parent either.
        let _set = span.set_parent(context);
    }
}

/// A part of what was done with a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// What it was.
    pub name: &'static str,
    /// When it began.
    pub from: SystemTime,
    /// When it ended.
    pub to: SystemTime,
}

/// Attribute of what agents tell: nothing else has it when it begins.
const AGENT: &str = "muster.agent";

/// What traces are recorded: those of agents that tell, who were chosen already or failed, and of others as the standard
/// variables say. Whoever turned traces off gets none.
#[derive(Debug, Clone)]
pub(super) struct Told {
    others: Box<dyn ShouldSample>,
    agents: bool,
}

impl Told {
    pub(super) fn from_env() -> Self {
        let off = std::env::var("OTEL_TRACES_SAMPLER").is_ok_and(|name| name.ends_with("always_off"));
        Self { others: opentelemetry_sdk::trace::Config::default().sampler, agents: !off }
    }
}

impl ShouldSample for Told {
    fn should_sample(
        &self,
        parent: Option<&Context>,
        trace: TraceId,
        name: &str,
        kind: &SpanKind,
        attributes: &[KeyValue],
        links: &[Link],
    ) -> SamplingResult {
        let above = parent.map(|parent| parent.span().span_context().clone());
        let is_local = above.as_ref().is_some_and(|above| above.is_valid() && !above.is_remote());
        let of_agent = || attributes.iter().any(|attribute| attribute.key.as_str() == AGENT);
        // Below what is told everything is.
        let told = if is_local { above.is_some_and(|above| above.is_sampled()) } else { of_agent() };
        let mut result = self.others.should_sample(parent, trace, name, kind, attributes, links);
        if self.agents && told {
            result.decision = SamplingDecision::RecordAndSample;
        }
        result
    }
}

/// What was done with a message that came from outside of the trust of services: told when it is over, because only then
/// it is known whether it is worth telling.
#[derive(Debug, Clone)]
pub struct Processed<'a> {
    /// Where it came from.
    pub template: &'static str,
    /// The change that led to it. Its span may be unknown: then the link leads to the trace.
    pub cause: Option<Cause>,
    /// When it began and ended.
    pub whole: (SystemTime, SystemTime),
    /// What was done, in order.
    pub steps: &'a [Step],
    /// The agent.
    pub agent: &'a str,
    /// The group.
    pub group: &'a str,
    /// The revision.
    pub revision: u64,
    /// Whether it failed.
    pub failed: bool,
}

/// Where a change began, as far as it is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cause {
    /// The trace, as signed.
    pub trace_id: [u8; 16],
    /// The span that published it, as the message said. It counts if it lies in the trace.
    pub hint: Option<TraceParent>,
}

impl Cause {
    /// What to link to; `None` if there is no trace.
    #[must_use]
    pub fn link(&self) -> Option<TraceParent> {
        let hint = self.hint.filter(|hint| hint.trace_id == self.trace_id);
        // A link needs the id of a span. Without one the first half of the trace's stands for it: it leads to the trace.
        let [a, b, c, d, e, f, g, h, ..] = self.trace_id;
        let span_id = [a, b, c, d, e, f, g, h | 1];
        let known = self.trace_id != [0; 16];
        hint.or(known.then_some(TraceParent { trace_id: self.trace_id, span_id, sampled: true }))
    }
}

/// Tells what was done with a message: a root span, linked to its cause, and one span below it for each step.
pub fn processed(what: &Processed<'_>) {
    let Some(tracer) = TRACER.get() else { return };
    let link = what.cause.and_then(|cause| cause.link()).map(|link| Link::with_context(remote(link)));
    let attributes = vec![
        KeyValue::new("messaging.system", "nats"),
        KeyValue::new("messaging.operation.name", "process"),
        KeyValue::new("messaging.operation.type", "process"),
        KeyValue::new("messaging.destination.template", what.template),
        KeyValue::new(AGENT, what.agent.to_owned()),
        KeyValue::new("muster.group", what.group.to_owned()),
        KeyValue::new("muster.revision", i64::try_from(what.revision).unwrap_or(i64::MAX)),
    ];
    let builder = tracer
        .span_builder(format!("process {}", what.template))
        .with_kind(SpanKind::Consumer)
        .with_start_time(what.whole.0)
        .with_links(link.into_iter().collect())
        .with_attributes(attributes);
    let mut span = tracer.build_with_context(builder, &Context::new());
    if what.failed {
        span.set_status(Status::error("the revision failed; the agent's log and status say why"));
        span.set_attribute(KeyValue::new("error.type", "revision_failed"));
    }
    let context = Context::new().with_span(span);
    for step in what.steps {
        let builder = tracer.span_builder(step.name).with_kind(SpanKind::Internal).with_start_time(step.from);
        tracer.build_with_context(builder, &context).end_with_timestamp(step.to);
    }
    context.span().end_with_timestamp(what.whole.1);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_leads_to_the_signed_trace_whatever_the_message_says() {
        let place =
            |trace: u8, span: u8| TraceParent { trace_id: [trace; 16], span_id: [span; 8], sampled: true };
        let link = |trace: u8, hint| Cause { trace_id: [trace; 16], hint }.link();
        assert_eq!(link(7, Some(place(7, 9))), Some(place(7, 9)));
        assert_eq!(link(7, Some(place(8, 9))).map(|link| link.trace_id), Some([7; 16]));
        assert_eq!(link(6, None).map(|link| (link.trace_id, link.span_id[7])), Some(([6; 16], 7)));
        assert_eq!(link(0, None), None);
    }

    #[test]
    fn what_agents_tell_is_recorded_whatever_share_of_the_rest_is() {
        use opentelemetry_sdk::trace::Sampler;
        let others: Box<dyn ShouldSample> = Box::new(Sampler::TraceIdRatioBased(0.0));
        let [told, off] = [true, false].map(|agents| Told { others: others.clone(), agents });
        let recorded = |told: &Told, above: Option<SpanContext>, attributes: &[KeyValue]| {
            let context = above.map(|above| Context::new().with_remote_span_context(above));
            let result = told.should_sample(
                context.as_ref(),
                TraceId::from_bytes([255; 16]),
                "x",
                &SpanKind::Internal,
                attributes,
                &[],
            );
            result.decision == SamplingDecision::RecordAndSample
        };
        let above = |sampled, is_remote| {
            let place = remote(TraceParent { trace_id: [255; 16], span_id: [1; 8], sampled });
            let (trace, span, flags) = (place.trace_id(), place.span_id(), place.trace_flags());
            Some(SpanContext::new(trace, span, flags, is_remote, TraceState::default()))
        };
        let agent = [KeyValue::new(AGENT, "a")];
        assert!(recorded(&told, None, &agent) && !recorded(&off, None, &agent));
        assert!(!recorded(&told, None, &[]), "the rest as the variables say");
        assert!(recorded(&told, above(true, false), &[]) && !recorded(&off, above(true, false), &[]));
        assert!(!recorded(&told, above(false, false), &[]) && !recorded(&told, above(true, true), &[]));
    }

    #[test]
    fn without_a_collector_there_are_no_spans() {
        assert!(!on() && current().is_none());
        for span in
            [rpc("a/B", None), call("a/B", None), work("plan"), work_after("compile", None), publish("x")]
        {
            assert!(span.is_none() && place(&span).is_none());
        }
    }
}
