//! Conversion of the text of `/metrics` to OTLP messages, so that both show the same metrics under the same names.
//!
//! Reads only what [`crate::metrics`] writes: every family described by `HELP` and `TYPE`, no timestamps, buckets in order
//! (opentelemetry-proto, `metrics.proto`; the mapping is that of the OpenTelemetry specification, "Prometheus compatibility").

use opentelemetry_proto::tonic::{
    common::v1::{AnyValue, KeyValue, any_value::Value},
    metrics::v1::{
        AggregationTemporality, Gauge, Histogram, HistogramDataPoint, Metric, NumberDataPoint, Sum,
        metric::Data, number_data_point,
    },
};

/// When counting began, and when the metrics were read; nanoseconds since 1970.
#[derive(Debug, Clone, Copy)]
pub(super) struct Times {
    pub(super) since: u64,
    pub(super) now: u64,
}

/// Reads a whole exposition; invalid lines are left out.
pub(super) fn read(text: &str, times: Times) -> Vec<Metric> {
    let mut metrics: Vec<Metric> = Vec::new();
    let mut help = "";
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            help = rest.split_once(' ').map_or("", |(_, help)| help);
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            metrics.extend(begin(rest, help));
        } else if let (Some(metric), Some(sample)) = (metrics.last_mut(), Sample::read(line)) {
            add(metric, &sample, times);
        }
    }
    metrics.retain(|m| !is_empty(m));
    metrics
}

/// A family before its first sample: `name type`.
fn begin(described: &str, help: &str) -> Option<Metric> {
    let (name, kind) = described.split_once(' ')?;
    let temporality = AggregationTemporality::Cumulative.into();
    let data = match kind {
        "counter" => Data::Sum(Sum {
            data_points: Vec::new(),
            aggregation_temporality: temporality,
            is_monotonic: true,
        }),
        "gauge" => Data::Gauge(Gauge::default()),
        "histogram" => Data::Histogram(Histogram {
            data_points: Vec::new(),
            aggregation_temporality: temporality,
        }),
        _ => return None,
    };
    Some(Metric {
        name: name.to_owned(),
        description: help.to_owned(),
        unit: unit(name).to_owned(),
        metadata: Vec::new(),
        data: Some(data),
    })
}

/// The unit in the suffix of a name (UCUM).
fn unit(name: &str) -> &'static str {
    let name = name.strip_suffix("_total").unwrap_or(name);
    match name.rsplit_once('_') {
        Some((_, "seconds")) => "s",
        Some((_, "bytes")) => "By",
        _ => "1",
    }
}

fn is_empty(metric: &Metric) -> bool {
    match &metric.data {
        Some(Data::Sum(sum)) => sum.data_points.is_empty(),
        Some(Data::Gauge(gauge)) => gauge.data_points.is_empty(),
        Some(Data::Histogram(histogram)) => histogram.data_points.is_empty(),
        _ => true,
    }
}

fn add(metric: &mut Metric, sample: &Sample<'_>, times: Times) {
    let part = sample.name.strip_prefix(metric.name.as_str());
    match (&mut metric.data, part) {
        (Some(Data::Sum(sum)), Some("")) => sum.data_points.push(sample.point(times)),
        (Some(Data::Gauge(gauge)), Some("")) => gauge.data_points.push(sample.point(times)),
        (Some(Data::Histogram(histogram)), Some(part)) => {
            part_of_histogram(&mut histogram.data_points, part, sample, times);
        }
        _ => {}
    }
}

/// Samples of a histogram are adjacent: `_sum`, `_count`, then the buckets, or buckets first. The buckets of the text include all
/// smaller ones, those of the message do not.
fn part_of_histogram(
    points: &mut Vec<HistogramDataPoint>,
    part: &str,
    sample: &Sample<'_>,
    times: Times,
) {
    let attributes = sample.attributes();
    let at = points.iter().rposition(|p| p.attributes == attributes);
    let at = at.unwrap_or_else(|| {
        points.push(HistogramDataPoint {
            attributes,
            start_time_unix_nano: times.since,
            time_unix_nano: times.now,
            ..HistogramDataPoint::default()
        });
        points.len() - 1
    });
    let point = &mut points[at];
    match part {
        "_sum" => point.sum = Some(sample.value),
        "_count" => point.count = sample.value as u64,
        "_bucket" => {
            let smaller: u64 = point.bucket_counts.iter().sum();
            point
                .bucket_counts
                .push((sample.value as u64).saturating_sub(smaller));
            let bound = sample.bound().and_then(|b| b.parse::<f64>().ok());
            if let Some(bound) = bound.filter(|b| b.is_finite()) {
                point.explicit_bounds.push(bound);
            }
        }
        _ => {}
    }
}

/// One line of the text.
struct Sample<'t> {
    name: &'t str,
    labels: Vec<(&'t str, String)>,
    value: f64,
}

impl<'t> Sample<'t> {
    /// `name{label="value",…} number`
    fn read(line: &'t str) -> Option<Self> {
        if line.starts_with('#') {
            return None;
        }
        let (series, value) = line.rsplit_once(' ')?;
        let (name, labels) = match series.split_once('{') {
            Some((name, rest)) => (name, labels(rest.strip_suffix('}')?)?),
            None => (series, Vec::new()),
        };
        let value = value.parse().ok()?;
        Some(Self {
            name,
            labels,
            value,
        })
    }

    fn bound(&self) -> Option<&str> {
        let le = self.labels.iter().find(|(name, _)| *name == "le")?;
        Some(&le.1)
    }

    fn attributes(&self) -> Vec<KeyValue> {
        let own = self.labels.iter().filter(|(name, _)| *name != "le");
        own.map(|(name, value)| attribute(name, value)).collect()
    }

    fn point(&self, times: Times) -> NumberDataPoint {
        // Keep whole numbers exact.
        let whole = self.value.fract() == 0.0 && self.value.abs() < 9e15;
        let value = if whole {
            number_data_point::Value::AsInt(self.value as i64)
        } else {
            number_data_point::Value::AsDouble(self.value)
        };
        NumberDataPoint {
            attributes: self.attributes(),
            start_time_unix_nano: times.since,
            time_unix_nano: times.now,
            value: Some(value),
            ..NumberDataPoint::default()
        }
    }
}

/// An attribute of a metric or a resource.
pub(super) fn attribute(name: &str, value: &str) -> KeyValue {
    KeyValue {
        key: name.to_owned(),
        value: Some(AnyValue {
            value: Some(Value::StringValue(value.to_owned())),
        }),
        ..KeyValue::default()
    }
}

/// `a="b",c="d"`, with `\\`, `\"` and `\n` in values.
fn labels(mut text: &str) -> Option<Vec<(&str, String)>> {
    let mut found = Vec::new();
    while !text.is_empty() {
        let (name, rest) = text.split_once("=\"")?;
        let (mut value, mut chars, mut end) = (String::new(), rest.char_indices(), None);
        while let Some((at, c)) = chars.next() {
            match c {
                '"' => {
                    end = Some(at);
                    break;
                }
                '\\' => match chars.next()?.1 {
                    'n' => value.push('\n'),
                    other => value.push(other),
                },
                c => value.push(c),
            }
        }
        found.push((name, value));
        let rest = &rest[end? + 1..];
        text = rest.strip_prefix(',').unwrap_or(rest);
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMES: Times = Times { since: 1, now: 2 };

    fn read_one(text: &str) -> Metric {
        let mut metrics = read(text, TIMES);
        assert_eq!(metrics.len(), 1);
        metrics.remove(0)
    }

    #[test]
    fn counters_are_growing_sums() {
        let text = "# HELP a_bytes_total What it is.\n# TYPE a_bytes_total counter\n\
                    a_bytes_total{door=\"x\",path=\"\\\"{a}\\\\,\"} 7\n";
        let metric = read_one(text);
        assert_eq!(
            (metric.name.as_str(), metric.unit.as_str()),
            ("a_bytes_total", "By")
        );
        assert_eq!(metric.description, "What it is.");
        let Some(Data::Sum(sum)) = metric.data else {
            panic!("no sum")
        };
        assert!(sum.is_monotonic);
        let point = &sum.data_points[0];
        assert_eq!(point.value, Some(number_data_point::Value::AsInt(7)));
        let want = [attribute("door", "x"), attribute("path", "\"{a}\\,")];
        assert_eq!(point.attributes, want);
    }

    #[test]
    fn buckets_no_longer_contain_the_smaller_ones() {
        let text = "# HELP t_seconds T.\n# TYPE t_seconds histogram\n\
                    t_seconds_sum{d=\"x\"} 1.5\nt_seconds_count{d=\"x\"} 6\n\
                    t_seconds_bucket{le=\"0.5\",d=\"x\"} 1\nt_seconds_bucket{le=\"1.0\",d=\"x\"} 4\n\
                    t_seconds_bucket{le=\"+Inf\",d=\"x\"} 6\n";
        let Some(Data::Histogram(histogram)) = read_one(text).data else {
            panic!("no histogram")
        };
        let [point] = &histogram.data_points[..] else {
            panic!("{histogram:?}")
        };
        assert_eq!(point.bucket_counts, [1, 3, 2]);
        assert_eq!(point.explicit_bounds, [0.5, 1.0]);
        assert_eq!((point.count, point.sum), (6, Some(1.5)));
        assert_eq!(point.attributes, [attribute("d", "x")]);
    }

    #[test]
    fn everything_that_metrics_shows_is_understood() {
        let metrics = crate::metrics::Metrics::new();
        let done = crate::metrics::http::Done {
            label: crate::metrics::http::RouteLabel {
                door: "registry",
                route: "/v2/{name}/blobs/{digest}",
                looks_up: Some("blob"),
                is_quiet: false,
            },
            method: "GET",
            code: 200,
            tier: "local",
            outcome: crate::metrics::http::Outcome::Ok,
            elapsed: std::time::Duration::from_millis(7),
            bytes_in: 0,
            bytes_out: 9,
        };
        metrics.http.record(&done);
        metrics.http.saved("registry", "mounted", 5);
        drop(metrics.http.in_flight("registry"));
        let text = metrics.encode();
        let described = text.lines().filter(|l| l.starts_with("# TYPE ")).count();
        let found = read(&text, TIMES);
        assert!(described > 30);
        assert_eq!(found.len(), described);
    }
}
