//! The chart, rendered by Helm.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::objects::Objects;
use crate::tools::tool;

/// The root of the repository.
///
/// # Panics
/// Never: the crate lies two folders below it.
#[must_use]
pub fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).expect("the crate lies two folders below the root").to_path_buf()
}

/// The folder of the chart.
#[must_use]
pub fn chart_dir() -> PathBuf {
    root().join("helm/muster")
}

/// What Helm says of values that it does not take.
#[derive(Debug)]
pub struct Refused(pub String);

impl Refused {
    /// Whether the chart itself refused them, in its schema or because two do not go together.
    #[must_use]
    pub fn is_about_values(&self) -> bool {
        self.0.contains("values don't meet the specifications of the schema")
            || self.0.contains("These values do not go together")
    }
}

/// Kinds of others that the chart makes where a cluster knows them.
const OPTIONAL: [&str; 2] =
    ["monitoring.coreos.com/v1/PodMonitor", "monitoring.coreos.com/v1/PrometheusRule"];

/// Values over the chart's own.
#[derive(Debug, Clone, Default)]
pub struct Chart {
    files: Vec<PathBuf>,
    values: Vec<Value>,
    /// Whether it is rendered for a cluster that knows nothing but Kubernetes.
    bare: bool,
    /// Whether Helm 3 renders it.
    old: bool,
}

impl Chart {
    /// The chart with its own values.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// With a file of values.
    #[must_use]
    pub fn file(mut self, path: impl Into<PathBuf>) -> Self {
        self.files.push(path.into());
        self
    }

    /// With further values, which win over those of files.
    #[must_use]
    pub fn with(mut self, values: Value) -> Self {
        self.values.push(values);
        self
    }

    /// For a cluster without the kinds of Prometheus' operator.
    #[must_use]
    pub fn bare(self) -> Self {
        Self { bare: true, ..self }
    }

    /// By Helm 3.
    #[must_use]
    pub fn by_helm_3(self) -> Self {
        Self { old: true, ..self }
    }

    /// Arguments for Helm; files of values are written to `dir`.
    ///
    /// # Panics
    /// If they cannot be written.
    #[must_use]
    pub fn arguments(&self, dir: &Path) -> Vec<String> {
        let mut files: Vec<PathBuf> = self.files.clone();
        for (at, values) in self.values.iter().enumerate() {
            let path = dir.join(format!("values-{at}.json"));
            std::fs::write(&path, values.to_string()).expect("values can be written");
            files.push(path);
        }
        files.into_iter().flat_map(|file| ["--values".to_owned(), file.display().to_string()]).collect()
    }

    /// What it renders to.
    ///
    /// # Errors
    /// [`Refused`] with what Helm says.
    ///
    /// # Panics
    /// If Helm cannot be run or renders no YAML.
    pub fn render(&self) -> Result<Objects, Refused> {
        self.render_text().map(|text| Objects::read(&text))
    }

    /// What it renders to, where nothing speaks against it.
    ///
    /// # Panics
    /// With what Helm says, if it refuses.
    #[must_use]
    pub fn rendered(&self) -> Objects {
        self.render().unwrap_or_else(|refused| panic!("{}", refused.0))
    }

    /// What it renders to, as Helm prints it.
    ///
    /// # Errors
    /// [`Refused`] with what Helm says.
    ///
    /// # Panics
    /// If Helm cannot be run.
    pub fn render_text(&self) -> Result<String, Refused> {
        let dir = tempfile::tempdir().expect("a temporary directory can be made");
        let output = Command::new(tool(if self.old { "helm3" } else { "helm" }))
            .args(["template", "muster"])
            .arg(chart_dir())
            .args(["--namespace", "fleet", "--kube-version", "1.36.0"])
            .args(self.arguments(dir.path()))
            .args(OPTIONAL.iter().filter(|_| !self.bare).flat_map(|kind| ["--api-versions", *kind]))
            .env("HELM_CACHE_HOME", dir.path())
            .env("HELM_CONFIG_HOME", dir.path())
            .env("HELM_DATA_HOME", dir.path())
            .output()
            .expect("helm can be run");
        match output.status.success() {
            true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
            false => Err(Refused(String::from_utf8_lossy(&output.stderr).into_owned())),
        }
    }
}
