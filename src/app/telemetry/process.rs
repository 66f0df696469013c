//! What the process takes of the machine, under the names that Prometheus' client libraries give it.

use std::{fmt::Write, fs};

/// Reads `/proc/self` and sets the gauges; what cannot be read stays as it was. Gives what is no gauge, in the form of
/// Prometheus: the counters of the other metrics are whole numbers, and CPU time is not.
pub(super) fn measure() -> String {
    let mut counted = String::new();
    if let Some((cpu_seconds, resident_bytes)) =
        fs::read_to_string("/proc/self/stat").ok().and_then(|text| usage(&text))
    {
        const CPU: &str = "process_cpu_seconds_total";
        let _ = write!(counted, "# TYPE {CPU} counter\n{CPU} {cpu_seconds}\n\n");
        metrics::gauge!("process_resident_memory_bytes").set(resident_bytes);
    }
    if let Ok(files) = fs::read_dir("/proc/self/fd") {
        metrics::gauge!("process_open_fds").set(files.count() as f64);
    }
    if let Some(most) = rustix::process::getrlimit(rustix::process::Resource::Nofile).current {
        metrics::gauge!("process_max_fds").set(most as f64);
    }
    counted
}

/// CPU time in seconds and resident memory in bytes, from proc(5)'s `stat`.
fn usage(stat: &str) -> Option<(f64, f64)> {
    // The second field is the program's name, which may hold spaces and brackets.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
    let ticks = number(14)? + number(15)?;
    let per_second = rustix::param::clock_ticks_per_second().max(1);
    let resident = number(24)? * u64::try_from(rustix::param::page_size()).ok()?;
    Some((ticks as f64 / per_second as f64, resident as f64))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_name_may_hold_anything() {
        let stat = format!("7 (a) b) S 1 {} 300 100 {} 5 0", "0 ".repeat(9).trim(), "0 ".repeat(8).trim());
        let (cpu, resident) = usage(&stat).unwrap();
        let tick = rustix::param::clock_ticks_per_second() as f64;
        assert_eq!((cpu, resident), (400.0 / tick, 5.0 * rustix::param::page_size() as f64));
        let (_, resident) = usage(&fs::read_to_string("/proc/self/stat").unwrap()).unwrap();
        assert!(resident > 1e6);
    }
}
