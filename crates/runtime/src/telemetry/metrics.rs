//! Counting. Values are given for the labels of a metric in their order; one that its row does not list ends a debug
//! build, and is `_OTHER` in a release.

use std::sync::OnceLock;
use std::time::Instant;

use opentelemetry::KeyValue;
use opentelemetry::metrics::{
    BoundCounter, BoundGauge, BoundHistogram, Counter, Gauge, Histogram, Meter, MeterProvider as _,
};
use opentelemetry_sdk::metrics::SdkMeterProvider;

use super::catalogue::{CATALOGUE, Kind, Label, Metric, Name};

/// What stands for a value that is not listed.
const OTHER: &str = "_OTHER";

/// An instrument, and a place for each of its series: its labels are looked up when it first counts, never again.
enum Instrument {
    Counter(Counter<u64>, Vec<OnceLock<BoundCounter<u64>>>),
    Gauge(Gauge<f64>, Vec<OnceLock<BoundGauge<f64>>>),
    Histogram(Histogram<f64>, Vec<OnceLock<BoundHistogram<f64>>>),
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
        if metric.is_told_by(service) {
            metric.combinations().for_each(|values| instrument.add(metric, 0, &values));
        }
    }
}

fn instrument(meter: &Meter, metric: &Metric) -> Instrument {
    match metric.kind {
        Kind::Counter => {
            let builder = meter.u64_counter(metric.name).with_unit(metric.unit);
            Instrument::Counter(builder.with_description(metric.meaning).build(), places(metric))
        }
        Kind::Gauge => {
            let builder = meter.f64_gauge(metric.name).with_unit(metric.unit);
            Instrument::Gauge(builder.with_description(metric.meaning).build(), places(metric))
        }
        Kind::Histogram(bounds) => {
            let builder = meter.f64_histogram(metric.name).with_unit(metric.unit);
            let builder = builder.with_description(metric.meaning).with_boundaries(bounds.to_vec());
            Instrument::Histogram(builder.build(), places(metric))
        }
    }
}

/// One for each series, those with [`OTHER`] included.
fn places<T>(metric: &Metric) -> Vec<OnceLock<T>> {
    let count = metric.labels.iter().map(|label| label.values.len() + 1).product();
    std::iter::repeat_with(OnceLock::new).take(count).collect()
}

/// The place of the series with these values.
pub(super) fn place(metric: &Metric, values: &[&'static str]) -> usize {
    let position = |at: usize, label: &Label| {
        let value = values.get(at).copied().unwrap_or(OTHER);
        label.values.iter().position(|listed| *listed == value).unwrap_or(label.values.len())
    };
    let labels = metric.labels.iter().enumerate();
    labels.fold(0, |place, (at, label)| place * (label.values.len() + 1) + position(at, label))
}

fn labels(metric: &Metric, values: &[&'static str]) -> Vec<KeyValue> {
    let value = |at: usize, label: &Label| {
        values.get(at).copied().filter(|value| label.values.contains(value)).unwrap_or(OTHER)
    };
    metric.labels.iter().enumerate().map(|(at, label)| KeyValue::new(label.name, value(at, label))).collect()
}

impl Instrument {
    fn add(&self, metric: &Metric, n: u64, values: &[&'static str]) {
        if let Self::Counter(counter, places) = self
            && let Some(series) = places.get(place(metric, values))
        {
            series.get_or_init(|| counter.bind(&labels(metric, values))).add(n);
        }
    }

    fn set(&self, metric: &Metric, value: f64, values: &[&'static str]) {
        if let Self::Gauge(gauge, places) = self
            && let Some(series) = places.get(place(metric, values))
        {
            series.get_or_init(|| gauge.bind(&labels(metric, values))).record(value);
        }
    }

    fn observe(&self, metric: &Metric, value: f64, values: &[&'static str]) {
        if let Self::Histogram(histogram, places) = self
            && let Some(series) = places.get(place(metric, values))
        {
            series.get_or_init(|| histogram.bind(&labels(metric, values))).record(value);
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
    if let Some(instrument) = get(name) {
        instrument.add(name.metric(), n, labels);
    }
}

/// Sets a gauge.
pub fn set(name: Name, value: f64, labels: &[&'static str]) {
    check(name, labels);
    if let Some(instrument) = get(name) {
        instrument.set(name.metric(), value, labels);
    }
}

/// Enters a value in a histogram.
pub fn observe(name: Name, value: f64, labels: &[&'static str]) {
    check(name, labels);
    if let Some(instrument) = get(name) {
        instrument.observe(name.metric(), value, labels);
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
