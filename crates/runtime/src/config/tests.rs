use std::io::Write;

use clap::CommandFactory;

use super::*;

/// The variable exists in every test run under cargo, which lets a test see the environment's place
/// without changing it.
#[derive(Debug, Parser)]
#[command(name = "thing")]
struct Thing {
    /// Where to listen.
    #[arg(long, default_value = "127.0.0.1:1")]
    listen: String,
    /// From the environment.
    #[arg(long, env = "CARGO_PKG_NAME", default_value = "default")]
    name: String,
    /// Servers.
    #[arg(long, value_name = "URL", required = true)]
    server: Vec<String>,
    /// On or off.
    #[arg(long)]
    fast: bool,
    #[command(subcommand)]
    command: Sub,
}

#[derive(Debug, clap::Subcommand)]
enum Sub {
    /// Runs it.
    Run {
        /// How many.
        #[arg(long, default_value_t = 1)]
        replicas: u8,
    },
}

fn parse_args(file: &str, args: &[&str]) -> Result<(Thing, toml::Table), String> {
    let mut path = tempfile::NamedTempFile::new().unwrap();
    path.write_all(file.as_bytes()).unwrap();
    let config = format!("--config={}", path.path().display());
    let args = ["thing", &config].into_iter().chain(args.iter().copied()).map(OsString::from);
    let shown = path.path().display().to_string();
    try_parse_from(args, &["handlers"]).map_err(|error| error.to_string().replace(&shown, "FILE"))
}

#[test]
fn flag_beats_environment_beats_file_beats_default() {
    let file = "listen = '127.0.0.1:2'\nname = 'file'\nserver = ['a', 'b']\nfast = true\nreplicas = 3";
    let (thing, _) = parse_args(file, &["run"]).unwrap();
    assert_eq!(thing.listen, "127.0.0.1:2");
    assert_eq!(thing.name, "runtime", "the environment is stronger than the file");
    assert_eq!(thing.server, ["a", "b"]);
    assert!(thing.fast);
    let Sub::Run { replicas } = thing.command;
    assert_eq!(replicas, 3);

    let args = ["--listen", "127.0.0.1:3", "--name=flag", "--server", "c", "run", "--replicas", "5"];
    let (thing, _) = parse_args(file, &args).unwrap();
    assert_eq!((thing.listen.as_str(), thing.name.as_str()), ("127.0.0.1:3", "flag"));
    assert_eq!(thing.server, ["c"]);
    let Sub::Run { replicas } = thing.command;
    assert_eq!(replicas, 5);

    let (thing, _) = parse_args("", &["--server", "c", "run"]).unwrap();
    assert_eq!(thing.listen, "127.0.0.1:1");
}

#[test]
fn tables_are_handed_out_only_when_asked_for() {
    let (_, tables) = parse_args("server = 'a'\n[handlers.firewall]\ncommand = ['true']", &["run"]).unwrap();
    assert!(tables["handlers"]["firewall"].is_table());
    let refused = parse_args("[handler.firewall]\ncommand = ['true']", &["run"]).unwrap_err();
    assert!(refused.contains("unknown key \"handler\"; known keys: [handlers], fast, listen"), "{refused}");
}

#[test]
fn bad_files_are_refused_with_the_reason() {
    #[track_caller]
    fn check(file: &str, expected: &str) {
        let refused = parse_args(file, &["run"]).unwrap_err();
        assert!(refused.contains(expected), "{refused}");
    }
    check("listen = ", "FILE is not valid TOML");
    check("lissten = 'x'", "unknown key \"lissten\"");
    check("config = 'x'", "unknown key \"config\"");
    check("listen = 2020-01-01", "gives \"listen\" a datetime");
    check("server = 'a'\nreplicas = 'many'", "invalid value 'many' for '--replicas <REPLICAS> (from FILE)'");
    let absent =
        try_parse_from::<Thing>(["thing", "--config", "/absent.toml", "run"].map(OsString::from), &[]);
    let absent = absent.unwrap_err().to_string();
    assert!(absent.contains("cannot read the configuration file /absent.toml: No such file"), "{absent}");
}

#[test]
fn markdown_lists_every_option_once() {
    let text = markdown(&with_config_flag(Thing::command()));
    assert_eq!(text.matches("`--listen <LISTEN>`").count(), 1, "{text}");
    assert!(
        text.contains("| `--name <NAME>` | `CARGO_PKG_NAME` | `default` | From the environment |"),
        "{text}"
    );
    assert!(text.contains("| `--server <URL>` |  | required | Servers |"), "{text}");
    assert!(text.contains("### `thing run`"), "{text}");
    assert!(text.contains("`THING_CONFIG`"), "{text}");
}

#[test]
fn durations_have_a_unit() {
    use std::time::Duration;
    assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
    assert_eq!(duration("24h"), Ok(Duration::from_secs(86_400)));
    for bad in ["", "5", "s", "5 s", "-5s", "5y", "99999999999999999999s", "18446744073709551615d", "ü"] {
        assert!(duration(bad).unwrap_err().contains("is not a duration"), "{bad}");
    }
}
