//! What the figures were measured on.

use std::path::Path;
use std::process::Command;
use std::time::SystemTime;

/// The machine and the versions, in one line for the page.
#[derive(Debug, Clone)]
pub struct Machine {
    /// Cores that this process may use.
    pub cores: usize,
    memory_gib: f64,
    processor: String,
    nats_server: String,
    rustc: String,
}

impl Machine {
    /// Looks at the machine; what it does not tell is "unknown".
    #[must_use]
    pub fn look(nats_server: &Path) -> Self {
        let memory_kib = field("/proc/meminfo", "MemTotal")
            .and_then(|text| text.split_whitespace().next().and_then(|number| number.parse::<f64>().ok()));
        Self {
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            memory_gib: memory_kib.unwrap_or_default() / f64::from(1 << 20),
            processor: field("/proc/cpuinfo", "model name").unwrap_or_else(|| "unknown processor".to_owned()),
            nats_server: version(nats_server, "nats-server: v"),
            rustc: version(Path::new("rustc"), "rustc "),
        }
    }

    /// For the page: when, on what, with which versions.
    #[must_use]
    pub fn line(&self) -> String {
        let now = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
        let day = now.split('T').next().unwrap_or_default().to_owned();
        format!(
            "Measured {day} on {} cores ({}), {:.0} GiB; nats-server {}, rustc {}, Muster {}.",
            self.cores,
            self.processor,
            self.memory_gib,
            self.nats_server,
            self.rustc,
            env!("CARGO_PKG_VERSION")
        )
    }
}

fn field(file: &str, name: &str) -> Option<String> {
    let text = std::fs::read_to_string(file).ok()?;
    let line = text.lines().find(|line| line.starts_with(name))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

fn version(program: &Path, before: &str) -> String {
    let output = Command::new(program).arg("--version").output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    let after = text.split_once(before).and_then(|(_, rest)| rest.split_whitespace().next());
    after.unwrap_or("unknown").to_owned()
}

/// Resident memory of a process, in bytes; 0 where the system does not tell.
#[must_use]
pub fn resident_bytes(process: &str) -> u64 {
    status_bytes(process, "VmRSS")
}

/// The most resident memory that a process had so far, in bytes; 0 where the system does not tell.
#[must_use]
pub fn peak_resident_bytes(process: &str) -> u64 {
    status_bytes(process, "VmHWM")
}

fn status_bytes(process: &str, name: &str) -> u64 {
    let kib = field(&format!("/proc/{process}/status"), name)
        .and_then(|text| text.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or_default() * 1024
}

/// Processor time that a process has used, in milliseconds of one core, user and system together; 0 where the
/// system does not tell. Exact to 10 ms.
#[must_use]
pub fn processor_ms(process: &str) -> f64 {
    /// Linux counts in hundredths of a second towards programs, whatever its own clock.
    const TICK_MS: f64 = 10.0;
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    // The name in brackets may hold spaces; the fields after it are numbered from 3.
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or_default().split_whitespace().collect();
    let ticks = |n: usize| fields.get(n - 3).and_then(|text| text.parse::<f64>().ok()).unwrap_or_default();
    (ticks(14) + ticks(15)) * TICK_MS
}
