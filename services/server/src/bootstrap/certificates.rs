//! The CA of a control plane and the certificates it makes: for NATS servers and for services.

use std::fs;
use std::path::Path;

use domain::Digest;
use runtime::tls::LocalCa;

use super::BootstrapArgs;
use super::api::{Api, Secret};
use super::plan::Data;

pub(super) const CA_CERT: &str = "ca.crt";
const CA_KEY: &str = "ca.key";
const CERT: &str = "tls.crt";
const KEY: &str = "tls.key";
/// Digest of the certificate with which NATS servers were started last.
const IN_USE: &str = "nats-in-use";

/// Makes what is missing and renews what ends within a month.
pub(super) async fn fill(args: &BootstrapArgs, api: &Api, work: &Path) -> anyhow::Result<()> {
    let mut ca = api.secret(&args.secret("ca")).await?;
    if ca.data.is_empty() {
        let made = LocalCa::open(work.join("ca"), &[])?;
        let wanted = Data::from([
            (CA_CERT.to_owned(), fs::read(made.ca())?),
            (CA_KEY.to_owned(), fs::read(made.ca().with_file_name(CA_KEY))?),
        ]);
        api.complete(&ca, &wanted).await?;
        ca = api.secret(&ca.name).await?;
    }
    let certificate = renew(api, &ca, ("nats", &args.nats_name), (args, work)).await?;
    renew(api, &ca, ("api", &args.api_name), (args, work)).await?;
    let digest = Digest::of(&certificate).to_string().into_bytes();
    let in_use = ca.data.get(IN_USE);
    if in_use == Some(&digest) {
        return Ok(());
    }
    // Those of a new control plane wait for their first certificate and take it by themselves.
    if let Some(name) = args.nats_statefulset.as_ref().filter(|_| in_use.is_some()) {
        api.restart(name, &String::from_utf8_lossy(&digest)).await?;
    }
    Ok(api.replace(&ca, &Data::from([(IN_USE.to_owned(), digest)])).await?)
}

/// One certificate, as it is from now on.
async fn renew(
    api: &Api,
    ca: &Secret,
    (name, names): (&str, &[String]),
    (args, work): (&BootstrapArgs, &Path),
) -> anyhow::Result<Vec<u8>> {
    let secret = api.secret(&args.secret(&format!("{name}-tls"))).await?;
    let dir = work.join(name);
    let held = |key: &str| ca.data.get(key).cloned().unwrap_or_default();
    fs::create_dir_all(&dir)?;
    write(&dir.join("ca.pem"), &held(CA_CERT))?;
    write(&dir.join(CA_KEY), &held(CA_KEY))?;
    for (key, file) in [(CERT, "server.pem"), (KEY, "server.key")] {
        if let Some(body) = secret.data.get(key) {
            write(&dir.join(file), body)?;
        }
    }
    let files = LocalCa::open(&dir, names)?.files();
    let certificate = fs::read(files.cert)?;
    let wanted = Data::from([
        (CA_CERT.to_owned(), held(CA_CERT)),
        (CERT.to_owned(), certificate.clone()),
        (KEY.to_owned(), fs::read(files.key)?),
    ]);
    api.replace(&secret, &wanted).await?;
    Ok(certificate)
}

fn write(path: &Path, body: &[u8]) -> std::io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let mut file = fs::File::options().write(true).create_new(true).mode(0o600).open(path)?;
    std::io::Write::write_all(&mut file, body)
}
