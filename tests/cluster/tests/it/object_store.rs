//! Backups in an object store that speaks S3: there and back, and what it is like when the store is not as it should be.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use cluster::{Chart, Secrets, have, tool};
use live::{AgentProcess, Faults, Fleet, Lane, Process, Proxy, Tree, until};
use runtime::tls::LocalCa;
use serde_json::json;

use super::bootstrap::{PROGRAMS, secrets};
use super::pods::{manifests, round};
use super::release::{CONTENT, Given, IDENTITY, POLICY, Release, ended_well, listens, loopback};

/// Where the values of the chart say that it is.
const ENDPOINT: &str = "https://s3.example.org:9000";
/// Who may use it.
const KEY: [&str; 2] = ["muster", "a-secret-of-tests"];

/// An object store with one bucket, `backups`.
struct Store {
    address: SocketAddr,
    /// The CA that vouches for it.
    ca: PathBuf,
    bucket: PathBuf,
    _process: Process,
}

impl Store {
    async fn start(dir: &Path) -> Self {
        let (dir, address) = (dir.join("s3"), loopback());
        let bucket = dir.join("files/backups");
        fs::create_dir_all(&bucket).unwrap();
        let ca = LocalCa::open(dir.join("tls"), &[]).unwrap();
        let mut command = tokio::process::Command::new(tool("versitygw"));
        command.args(["--port", &address.to_string(), "--access", KEY[0], "--secret", KEY[1], "--quiet"]);
        command.arg("--cert").arg(ca.files().cert).arg("--key").arg(ca.files().key);
        command.arg("posix").arg(dir.join("files"));
        let process = Process::of(&dir, "versitygw", command);
        listens(&process, address).await;
        Self { address, ca: ca.ca(), bucket, _process: process }
    }

    /// The variables of a client.
    fn environment(&self) -> Vec<(&'static str, String)> {
        vec![
            ("AWS_ACCESS_KEY_ID", KEY[0].to_owned()),
            ("AWS_SECRET_ACCESS_KEY", KEY[1].to_owned()),
            ("AWS_ENDPOINT_URL_S3", format!("https://{}", self.address)),
            ("SSL_CERT_FILE", self.ca.display().to_string()),
        ]
    }

    /// The same, with one of them changed.
    fn environment_but(&self, changed: Option<(&'static str, &str)>) -> Vec<(&'static str, String)> {
        let changed = changed.map(|(name, value)| (name, value.to_owned()));
        self.environment().into_iter().chain(changed).collect()
    }

    /// The Secrets of a release that uses it.
    fn secrets(&self) -> Secrets {
        let key = |name: &str, value: &str| (name.to_owned(), value.as_bytes().to_vec());
        let keys = [key("AWS_ACCESS_KEY_ID", KEY[0]), key("AWS_SECRET_ACCESS_KEY", KEY[1])];
        let ca = [("ca.crt".to_owned(), fs::read(&self.ca).unwrap())];
        [("s3-keys".to_owned(), keys.into()), ("s3-ca".to_owned(), ca.into())].into()
    }

    /// Names of the backups below a prefix.
    fn backups(&self, prefix: &str) -> Vec<String> {
        let folders = fs::read_dir(self.bucket.join(prefix)).into_iter().flatten().flatten();
        folders.map(|folder| folder.file_name().to_string_lossy().into_owned()).collect()
    }
}

/// Starts `musterd` in a folder.
fn musterd(dir: &Path, name: &str, args: &[&str], environment: &[(&str, String)]) -> Process {
    let environment: Vec<_> = environment.iter().map(|(name, value)| (*name, value.as_str())).collect();
    Process::start(dir, name, "musterd", args, &environment)
}

/// As README.md of the chart says it.
#[tokio::test(flavor = "multi_thread")]
async fn a_release_comes_back_out_of_an_object_store() {
    if !have(&PROGRAMS) || !have(&["nats-server", "versitygw"]) {
        return;
    }
    let s3 = json!({
        "url": "s3://backups/clusters/one", "endpoint": ENDPOINT, "existingSecret": "s3-keys", "caSecret": "s3-ca",
    });
    let values = json!({ "backup": { "enabled": true, "keep": 1, "s3": s3 } });
    let dir = tempfile::tempdir().unwrap();
    let store = Store::start(dir.path()).await;
    let addresses = vec![(ENDPOINT.to_owned(), format!("https://{}", store.address))];
    let given = Given { secrets: store.secrets(), addresses };
    let mut release = Release::start_with(&Chart::new().with(values), given).await;

    release.first_token().await;
    let cli = release.cli(POLICY);
    cli.apply(&manifests("10s")).await;
    let made = release.cli(IDENTITY).json("token create --group /push --uses 1").await;
    let mut agents = vec![AgentProcess::new(&release.dir, "push", made["token"].as_str().unwrap())];
    agents[0].start();
    round(&cli, 1, &agents).await;
    // More than goes to an object store at once.
    let tree = Tree::dense(1, 40 << 20);
    tree.write(&release.dir.join("rules"));
    let content = release.cli(CONTENT);
    let _ = content.run("content push definitions/ips rules").await.ok();

    for number in 0..2 {
        let mut backup = release.host.pod(("CronJob", "muster-backup"), &format!("backup-{number}"), &[]);
        backup.start(&release.host);
        ended_well(&mut backup).await;
    }
    let backups = store.backups("clusters/one");
    assert_eq!(backups.len(), 1, "the older one was removed: {backups:?}");
    let files = store.bucket.join("clusters/one").join(&backups[0]);
    assert!(fs::metadata(files.join("CONTENT")).unwrap().len() > 40 << 20);

    round(&cli, 2, &agents).await;
    release.stop_services().await;
    restore(&release, &store, &format!("s3://backups/clusters/one/{}", backups[0])).await;
    release.start_services().await;
    agents[0].reaches("firewall", "/round", &json!(1)).await;
    round(&release.cli(POLICY), 3, &agents).await;
    let content = release.cli(CONTENT);
    let _ = content.run("content fetch definitions/ips --to fetched").await.ok();
    assert_eq!(Tree::read(&release.dir.join("fetched")).unwrap(), tree);
}

/// Puts a backup back from one machine, with the keys of the Secret of `musterd init`.
async fn restore(release: &Release, store: &Store, from: &str) {
    let (keys, ca) = (release.dir.join("keys"), release.dir.join("nats-ca.pem"));
    for (name, body) in &secrets(&release.plane).await["muster-root"] {
        let path = keys.join(name.replace("..", "/"));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, body).unwrap();
        fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    }
    fs::write(&ca, release.host.secret("muster-nats-tls", "ca.crt")).unwrap();
    let nats = format!("tls://{}", release.broker.clients[0]);
    let (keys, ca) = (keys.display().to_string(), ca.display().to_string());
    let mut put = vec!["restore", "--from", from, "--broker-dir", &keys, "--nats-url", &nats];
    put.extend(["--nats-ca-file", &ca, "--nats-tls-first", "--stream-replicas", "3", "--replace"]);
    let mut restore = musterd(&release.dir, "restore", &put, &store.environment());
    assert!(restore.wait().await.success(), "{}", restore.log());
    assert!(restore.log().contains("The store has epoch"), "{}", restore.log());
}

/// What is wrong, where backups go then, what is different in the environment, and what is said.
type Wrong<'a> = (&'a str, &'a str, Option<(&'static str, &'a str)>, &'a str);

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_an_object_store_is_said_and_nothing_is_left() {
    if !have(&["nats-server", "versitygw"]) {
        return;
    }
    let fleet = Fleet::start().await;
    let dir = fleet.dir().to_owned();
    let store = Store::start(&dir).await;
    let (creds, ca) = (fleet.creds().display().to_string(), fleet.broker_ca().display().to_string());
    let nats = fleet.nats.url();
    let take = |name: &str, to: &str, changed: Option<(&'static str, &str)>| {
        let args = ["backup", "--to", to, "--nats-creds", &creds, "--nats-url", &nats, "--nats-ca-file", &ca];
        musterd(&dir, name, &args, &store.environment_but(changed))
    };
    let put = |name: &str, from: &str, changed: Option<(&'static str, &str)>| {
        let keys = dir.join("broker").display().to_string();
        let args = ["restore", "--from", from, "--broker-dir", &keys];
        musterd(&dir, name, &args, &store.environment_but(changed))
    };
    let nobody = format!("https://{}", loopback());
    let plain = format!("http://{}", store.address);
    let other_ca = LocalCa::open(dir.join("other"), &[]).unwrap().ca().display().to_string();
    let wrong: [Wrong<'_>; 6] = [
        ("bucket", "s3://other/x", None, "says NoSuchBucket: "),
        ("secret", "s3://backups/x", Some(("AWS_SECRET_ACCESS_KEY", "x")), "says SignatureDoesNotMatch: "),
        ("nobody", "s3://backups/x", Some(("AWS_ENDPOINT_URL_S3", &nobody)), "Connection refused"),
        ("plain", "s3://backups/x", Some(("AWS_ENDPOINT_URL_S3", &plain)), "set AWS_ALLOW_HTTP=true"),
        ("ca", "s3://backups/x", Some(("SSL_CERT_FILE", &other_ca)), "invalid peer certificate"),
        ("scheme", "gs://backups/x", None, "gs:// is not known"),
    ];
    for (name, to, changed, why) in wrong {
        let mut taking = take(name, to, changed);
        assert!(!taking.wait().await.success(), "{name}");
        assert!(taking.log().contains(why), "{name}: {}", taking.log());
    }
    assert!(store.backups("x").is_empty());

    // A store that takes connections and says nothing, and somebody who does not want to wait.
    let proxy = Proxy::start(&store.address.to_string()).await;
    let through = format!("https://{}", proxy.address());
    proxy.set("", Faults::down(Lane { hold_after: Some(0), ..Lane::default() }));
    let held = |name: &str| {
        let through = Some(("AWS_ENDPOINT_URL_S3", through.as_str()));
        match name {
            "taking" => (take(name, "s3://backups/x", through), "told to stop before the backup was whole"),
            _ => (put(name, "s3://backups/x/y", through), "told to stop before anything was touched"),
        }
    };
    for name in ["taking", "putting"] {
        let (before, (mut process, says)) = (proxy.bytes_up(""), held(name));
        until("it waits for an answer", || {
            if proxy.bytes_up("") > before { Ok(()) } else { Err(process.log()) }
        })
        .await;
        process.terminate();
        let ended = tokio::time::timeout(Duration::from_secs(30), process.wait()).await;
        assert!(!ended.expect("before Kubernetes would kill it").success());
        assert!(process.log().contains(says), "{}", process.log());
    }

    let mut taking = take("whole", "s3://backups/y", None);
    assert!(taking.wait().await.success(), "{}", taking.log());
    let name = store.backups("y").remove(0);
    let mut putting = put("no-name", "s3://backups/y", None);
    assert!(!putting.wait().await.success());
    assert!(putting.log().contains(&format!("the last are {name}")), "{}", putting.log());
    let file = store.bucket.join("y").join(&name).join("POLICY");
    let mut bytes = fs::read(&file).unwrap();
    bytes[10] ^= 1;
    fs::write(&file, bytes).unwrap();
    let mut putting = put("changed", &format!("s3://backups/y/{name}"), None);
    assert!(!putting.wait().await.success());
    assert!(putting.log().contains("POLICY is not as it was written"), "{}", putting.log());
}
