//! Fleets that `musterd all` serves beside the one that its options speak of.

use std::net::SocketAddr;
use std::str::FromStr;

use domain::FleetId;

use crate::all::AllArgs;

/// Most of them: each has some fifty tasks and four connections of its own.
const MAX: usize = 63;

/// A further fleet, and where its API is served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Further {
    /// The fleet.
    pub fleet: FleetId,
    /// Address of its API.
    pub listen: SocketAddr,
}

impl FromStr for Further {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (fleet, listen) = text.split_once('=').ok_or("must be ID=ADDRESS:PORT")?;
        let fleet = FleetId::new(fleet).map_err(|error| error.to_string())?;
        let listen = listen.parse().map_err(|_| format!("{listen:?} is no ADDRESS:PORT"))?;
        Ok(Self { fleet, listen })
    }
}

/// Why fleets cannot be served together.
#[derive(Debug, thiserror::Error)]
pub enum FurtherError {
    /// One is named twice.
    #[error("fleet {0} is named twice: give each fleet once, with --fleet or --also-fleet")]
    Twice(FleetId),
    /// Too many.
    #[error("{found} further fleets, at most {MAX}: serve the rest with another control plane")]
    TooMany {
        /// How many there are.
        found: usize,
    },
    /// People who sign in would have their roles in every fleet.
    #[error(
        "people who sign in at an OpenID provider would have their roles in every fleet: serve --also-fleet with another control plane, or without --oidc-issuer"
    )]
    SignIn,
}

impl Further {
    /// Whether these may be served beside the fleet of `args`.
    ///
    /// # Errors
    /// [`FurtherError`].
    pub(crate) fn check(further: &[Self], args: &AllArgs) -> Result<(), FurtherError> {
        if further.len() > MAX {
            return Err(FurtherError::TooMany { found: further.len() });
        }
        if !further.is_empty() && args.access.oidc.oidc_issuer.is_some() {
            return Err(FurtherError::SignIn);
        }
        let mut seen = vec![&args.fleet];
        for Self { fleet, .. } in further {
            if seen.contains(&fleet) {
                return Err(FurtherError::Twice(fleet.clone()));
            }
            seen.push(fleet);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: AllArgs,
    }

    #[test]
    fn fleets_are_named_once_and_nobody_signs_in_to_several() {
        let address = "127.0.0.1:1";
        let check = |options: &[&str]| {
            let line =
                Line::try_parse_from([&["musterd"], options].concat()).map_err(|error| error.to_string())?;
            Further::check(&line.args.also_fleet, &line.args).map_err(|error| error.to_string())
        };
        let red = format!("red={address}");
        let both = format!("red={address},blue={address}");
        let many: Vec<String> = (0..=MAX).map(|n| format!("f{n}={address}")).collect();
        let many = many.join(",");
        let sign_in = [
            "--oidc-issuer",
            "https://id",
            "--oidc-audience",
            "m",
            "--oidc-role",
            "g=viewer",
            "--also-fleet",
            &red,
        ];
        for (options, expected) in [
            (&["--also-fleet", both.as_str()][..], None),
            (&["--also-fleet", &both, "--fleet", "green"], None),
            (&["--also-fleet", &both, "--fleet", "red"], Some("fleet red is named twice")),
            (&["--also-fleet", &red, "--also-fleet", &red], Some("fleet red is named twice")),
            (&["--also-fleet", &many], Some("64 further fleets, at most 63")),
            (&["--also-fleet", "red"], Some("must be ID=ADDRESS:PORT")),
            (&["--also-fleet", "red=x"], Some("\"x\" is no ADDRESS:PORT")),
            (&["--also-fleet", "R=127.0.0.1:1"], Some("has the character 'R'")),
            (&sign_in, Some("roles in every fleet")),
        ] {
            match (check(options), expected) {
                (Ok(()), None) => {}
                (Err(error), Some(part)) => assert!(error.contains(part), "{error}"),
                (found, expected) => panic!("{options:?}: {found:?} instead of {expected:?}"),
            }
        }
    }
}
