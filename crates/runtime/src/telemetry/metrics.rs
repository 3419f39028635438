//! Counting. Values are given for the labels of a metric in their order; one that its row does not list ends a debug
//! build, and is `_OTHER` in a release.

use std::sync::OnceLock;
use std::time::Instant;

use opentelemetry::KeyValue;
use opentelemetry::metrics::{Counter, Gauge, Histogram, Meter, MeterProvider as _};
use opentelemetry_sdk::metrics::SdkMeterProvider;

use super::catalogue::{CATALOGUE, Kind, Metric, Name};

/// Most labels of a metric.
const MAX_LABELS: usize = 4;
/// What stands for a value that is not listed.
const OTHER: &str = "_OTHER";

enum Instrument {
    Counter(Counter<u64>),
    Gauge(Gauge<f64>),
    Histogram(Histogram<f64>),
}

static INSTRUMENTS: OnceLock<Vec<Instrument>> = OnceLock::new();

/// Makes the instruments of the catalogue. The first call counts. Counters of `service` begin with 0: of one that begins
/// with its first event Prometheus sees no increase, and no alert fires.
pub(super) fn begin(provider: &SdkMeterProvider, service: &str) {
    let meter = provider.meter(super::SCOPE);
    if INSTRUMENTS.set(CATALOGUE.iter().map(|metric| instrument(&meter, metric)).collect()).is_err() {
        return;
    }
    for (metric, instrument) in CATALOGUE.iter().zip(INSTRUMENTS.get().into_iter().flatten()) {
        if let Instrument::Counter(counter) = instrument
            && metric.is_told_by(service)
        {
            for values in metric.combinations() {
                with(metric, &values, |labels| counter.add(0, labels));
            }
        }
    }
}

fn instrument(meter: &Meter, metric: &Metric) -> Instrument {
    match metric.kind {
        Kind::Counter => {
            let builder = meter.u64_counter(metric.name).with_unit(metric.unit);
            Instrument::Counter(builder.with_description(metric.meaning).build())
        }
        Kind::Gauge => {
            let builder = meter.f64_gauge(metric.name).with_unit(metric.unit);
            Instrument::Gauge(builder.with_description(metric.meaning).build())
        }
        Kind::Histogram(bounds) => {
            let builder = meter.f64_histogram(metric.name).with_unit(metric.unit);
            let builder = builder.with_description(metric.meaning).with_boundaries(bounds.to_vec());
            Instrument::Histogram(builder.build())
        }
    }
}

/// Whether anything is counted: what takes work to find out can be left out otherwise.
#[must_use]
pub fn on() -> bool {
    INSTRUMENTS.get().is_some()
}

/// The time, if anything is counted: for [`since`].
#[must_use]
pub fn clock() -> Option<Instant> {
    on().then(Instant::now)
}

/// Counts `n` more of a counter.
pub fn add(name: Name, n: u64, labels: &[&'static str]) {
    check(name, labels);
    if let Some(Instrument::Counter(counter)) = get(name) {
        with(name.metric(), labels, |labels| counter.add(n, labels));
    }
}

/// Sets a gauge.
pub fn set(name: Name, value: f64, labels: &[&'static str]) {
    check(name, labels);
    if let Some(Instrument::Gauge(gauge)) = get(name) {
        with(name.metric(), labels, |labels| gauge.record(value, labels));
    }
}

/// Enters a value in a histogram.
pub fn observe(name: Name, value: f64, labels: &[&'static str]) {
    check(name, labels);
    if let Some(Instrument::Histogram(histogram)) = get(name) {
        with(name.metric(), labels, |labels| histogram.record(value, labels));
    }
}

/// Enters the time since [`clock`] in a histogram of seconds.
pub fn since(name: Name, clock: Option<Instant>, labels: &[&'static str]) {
    match clock {
        Some(clock) => observe(name, clock.elapsed().as_secs_f64(), labels),
        None => check(name, labels),
    }
}

fn get(name: Name) -> Option<&'static Instrument> {
    INSTRUMENTS.get()?.get(name as usize)
}

/// Whether a row has these labels.
pub(super) fn is_declared(metric: &Metric, labels: &[&str]) -> bool {
    let listed = metric.labels.iter().zip(labels).all(|(label, value)| label.values.contains(value));
    metric.labels.len() == labels.len() && listed
}

/// In builds for tests also where nothing is exported.
fn check(name: Name, labels: &[&'static str]) {
    debug_assert!(
        is_declared(name.metric(), labels),
        "invariant: the catalogue lists the labels {labels:?} of {}",
        name.metric().name
    );
}

fn with(metric: &Metric, values: &[&'static str], record: impl FnOnce(&[KeyValue])) {
    let row = metric.labels;
    let pair = |at: usize| {
        let (label, value) = (row.get(at)?, values.get(at).copied().unwrap_or(OTHER));
        let value = if label.values.contains(&value) { value } else { OTHER };
        Some(KeyValue::new(label.name, value))
    };
    let pairs: [Option<KeyValue>; MAX_LABELS] = std::array::from_fn(pair);
    match pairs {
        [None, ..] => record(&[]),
        [Some(a), None, ..] => record(&[a]),
        [Some(a), Some(b), None, _] => record(&[a, b]),
        [Some(a), Some(b), Some(c), None] => record(&[a, b, c]),
        [Some(a), Some(b), Some(c), Some(d)] => record(&[a, b, c, d]),
    }
}
