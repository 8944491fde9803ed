//! The process as the kernel sees it, from `/proc`, under the standard names
//! (<https://prometheus.io/docs/instrumenting/writing_clientlibs/#process-metrics>).

use std::{fmt, fs, path::Path, time::SystemTime};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{counter::ConstCounter, gauge::ConstGauge},
};

/// Ticks per second in `/proc/self/stat`: the same in user space on every architecture that we build for.
const TICKS: f64 = 100.0;
const KIB: u64 = 1 << 10;

/// Reads `/proc/self` at each scrape; values that cannot be read are not shown.
#[derive(Debug)]
pub(super) struct Process {
    /// Seconds since 1970. Stored, since the boot time, from which the kernel counts, is not available everywhere (systemd's
    /// `ProcSubset=pid`).
    started: f64,
}

impl Process {
    /// A process that starts now.
    pub(super) fn starting() -> Self {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        Self {
            started: since.unwrap_or_default().as_secs_f64(),
        }
    }
}

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let e = &mut encoder;
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let resident = kib(&status, "VmRSS:");
        let help = "Resident memory";
        gauge(e, "process_resident_memory_bytes", help, resident)?;
        let peak = kib(&status, "VmHWM:");
        let help = "Peak resident memory";
        gauge(e, "process_peak_resident_memory_bytes", help, peak)?;
        let all = kib(&status, "VmSize:");
        let help = "Virtual memory";
        gauge(e, "process_virtual_memory_bytes", help, all)?;
        let threads = number(&status, "Threads:");
        gauge(e, "process_threads", "Threads", threads)?;
        gauge(e, "process_open_fds", "Open descriptors", descriptors())?;
        let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
        let help = "Maximum number of open descriptors";
        gauge(e, "process_max_fds", help, most_descriptors(&limits))?;
        let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
        if let Some(seconds) = cpu_seconds(&stat) {
            let cpu = ConstCounter::new(seconds);
            one(e, "process_cpu_seconds", "CPU time used", &cpu)?;
        }
        let help = "Start of the process, in seconds since 1970";
        let started = ConstGauge::new(self.started);
        one(e, "process_start_time_seconds", help, &started)
    }
}

/// Shows a value, if it could be read.
fn gauge(e: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: Option<u64>) -> fmt::Result {
    value.map_or(Ok(()), |value| one(e, name, help, &ConstGauge::new(value)))
}

fn one(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    metric: &impl EncodeMetric,
) -> fmt::Result {
    let to = encoder.encode_descriptor(name, help, None, metric.metric_type())?;
    metric.encode(to)
}

/// A line `Key:   123 kB`, in bytes.
fn kib(text: &str, key: &str) -> Option<u64> {
    number(text, key).map(|kib| kib * KIB)
}

/// The first number after a key at the start of a line.
fn number(text: &str, key: &str) -> Option<u64> {
    let line = text.lines().find_map(|l| l.strip_prefix(key))?;
    line.split_whitespace().next()?.parse().ok()
}

fn descriptors() -> Option<u64> {
    // The descriptor used for listing is included.
    let listed = fs::read_dir(Path::new("/proc/self/fd")).ok()?.count();
    Some(listed.saturating_sub(1) as u64)
}

fn most_descriptors(limits: &str) -> Option<u64> {
    number(limits, "Max open files")
}

/// User and system CPU time. proc(5): the name in field 2 may contain anything, but ends with the last `)`; field 3 follows.
fn cpu_seconds(stat: &str) -> Option<f64> {
    let (_, rest) = stat.rsplit_once(')')?;
    let field = |n: usize| -> Option<f64> { rest.split_whitespace().nth(n - 3)?.parse().ok() };
    Some((field(14)? + field(15)?) / TICKS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_is_found_behind_any_name() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 9 0 0 0 250 50 0 0 20 0 4 0 12345 1 2";
        assert_eq!(cpu_seconds(stat), Some(3.0));
        assert_eq!(cpu_seconds("nonsense"), None);
    }

    #[test]
    fn this_process_has_memory_and_descriptors() {
        let status = fs::read_to_string("/proc/self/status").unwrap();
        assert!(kib(&status, "VmRSS:").unwrap() > 1 << 20);
        assert!(descriptors().unwrap() >= 3);
        let limits = fs::read_to_string("/proc/self/limits").unwrap();
        assert!(most_descriptors(&limits).unwrap() >= descriptors().unwrap());
    }
}
