//! Figures of several runs and how they are written.

use std::fmt;
use std::time::Duration;

/// The same figure from each run of a measurement.
#[derive(Debug, Clone, Default)]
pub struct Series(Vec<f64>);

impl Series {
    /// Adds the figure of another run.
    pub fn push(&mut self, value: f64) {
        self.0.push(value);
    }

    /// Adds a time, in milliseconds.
    pub fn push_ms(&mut self, time: Duration) {
        self.push(time.as_secs_f64() * 1e3);
    }

    /// Median; 0 without any run.
    #[must_use]
    pub fn median(&self) -> f64 {
        let sorted = self.sorted();
        match (sorted.len() % 2, sorted.len() / 2) {
            (_, 0) => sorted.first().copied().unwrap_or_default(),
            (1, middle) => sorted[middle],
            (_, middle) => f64::midpoint(sorted[middle - 1], sorted[middle]),
        }
    }

    fn sorted(&self) -> Vec<f64> {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        sorted
    }
}

impl FromIterator<f64> for Series {
    fn from_iter<I: IntoIterator<Item = f64>>(values: I) -> Self {
        Self(values.into_iter().collect())
    }
}

/// Median and, in brackets, the range.
impl fmt::Display for Series {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sorted = self.sorted();
        match (sorted.first(), sorted.last()) {
            (Some(min), Some(max)) if sorted.len() > 1 => {
                write!(f, "{} ({}–{})", number(self.median()), number(*min), number(*max))
            }
            (Some(only), _) => f.write_str(&number(*only)),
            (None, _) => f.write_str("not measured"),
        }
    }
}

/// A number with three digits that say something; thousands are separated.
#[must_use]
pub fn number(value: f64) -> String {
    let digits = match value.abs() {
        v if v >= 100.0 || v == 0.0 => 0,
        v if v >= 10.0 => 1,
        _ => 2,
    };
    let text = format!("{value:.digits$}");
    let (whole, rest) = text.split_once('.').map_or((text.as_str(), ""), |(w, r)| (w, r));
    let mut grouped = String::new();
    for (i, c) in whole.chars().enumerate() {
        let left = whole.len() - i;
        if i > 0 && left % 3 == 0 && grouped != "-" {
            grouped.push(',');
        }
        grouped.push(c);
    }
    if rest.is_empty() { grouped } else { format!("{grouped}.{rest}") }
}

/// The value below which `share` of the sorted values lie; `None` without values.
#[must_use]
pub fn percentile<T: Copy>(sorted: &[T], share: f64) -> Option<T> {
    let last = sorted.len().checked_sub(1)?;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "a share of an index is an index"
    )]
    let at = ((sorted.len() as f64 * share).ceil() as usize).saturating_sub(1);
    Some(sorted[at.min(last)])
}

/// A count as a number to calculate with; exact below 2^53.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "counts here are far below 2^53")]
pub fn float(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_show_median_and_range() {
        let show = |values: &[f64]| values.iter().copied().collect::<Series>().to_string();
        assert_eq!(show(&[]), "not measured");
        assert_eq!(show(&[1.5]), "1.50");
        assert_eq!(show(&[30.0, 1234567.0, 2.0]), "30.0 (2.00–1,234,567)");
        assert_eq!(show(&[1.0, 4.0]), "2.50 (1.00–4.00)");
        assert_eq!(number(-123.4), "-123");
        assert_eq!(number(-1234.4), "-1,234");
    }

    #[test]
    fn percentiles_are_values_of_the_set() {
        let values: Vec<u32> = (1..=100).collect();
        assert_eq!(percentile(&values, 0.5), Some(50));
        assert_eq!(percentile(&values, 0.99), Some(99));
        assert_eq!(percentile(&values, 1.0), Some(100));
        assert_eq!(percentile(&values[..1], 0.5), Some(1));
        assert_eq!(percentile::<u32>(&[], 0.5), None);
    }
}
