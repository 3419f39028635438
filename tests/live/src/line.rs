//! The API as any client calls it, with a token.

use std::path::Path;

use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use tonic::{Request, Status};

use crate::fleet::Service;

/// A connection on which each call carries a token, or none.
pub type Line = InterceptedService<Channel, Bearer>;

/// The token of a connection.
#[derive(Clone)]
pub struct Bearer(Option<MetadataValue<Ascii>>);

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(value) = &self.0 {
            request.metadata_mut().insert("authorization", value.clone());
        }
        Ok(request)
    }
}

/// The file in the directory of a test that holds the token of its administrator.
pub const ADMIN_TOKEN: &str = "admin.token";

/// Writes a token where only its owner reads it.
pub(crate) fn keep_token(path: &Path, token: &str) {
    std::fs::write(path, token).expect("a token can be written");
    let owner = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(path, owner).expect("a file can be made private");
}

/// A connection to a service that carries `token`.
///
/// # Errors
/// If it does not listen.
///
/// # Panics
/// If the token cannot stand in a header.
pub async fn line(service: &Service, token: Option<&str>) -> Result<Line, tonic::transport::Error> {
    let value = token.map(|token| format!("Bearer {token}").parse().expect("a token is plain text"));
    Ok(InterceptedService::new(service.connect().await?, Bearer(value)))
}

/// A connection to a service that carries the token of the administrator of a test's fleet, kept in `dir`.
///
/// # Errors
/// If it does not listen.
///
/// # Panics
/// If there is no such token.
pub async fn admin_line(service: &Service, dir: &Path) -> Result<Line, tonic::transport::Error> {
    let token = std::fs::read_to_string(dir.join(ADMIN_TOKEN)).expect("a fleet that runs has a token");
    line(service, Some(token.trim())).await
}
