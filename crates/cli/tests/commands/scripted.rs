//! A server that answers as it was told, and a terminal that keeps what it was shown.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::{Arc, Mutex};

use axum::body::Body;
use axum::http::{Request, Response};
use cli::terminal::{Terminal, Traits};
use prost::Message;
use tonic::Status;

/// Longest request: a few chunks.
const MAX_REQUEST_BYTES: usize = 64 << 20;

/// What a method answers.
#[derive(Clone)]
pub(crate) enum Reply {
    /// A refusal.
    Refusal(Status),
    /// Messages: one for a unary method.
    Messages(Vec<Vec<u8>>),
    /// Messages, and then the stream breaks off.
    Broken(Vec<Vec<u8>>),
    /// A stream that begins and goes on without a message.
    Open,
    /// Something happens, and then this is the answer.
    After(Arc<dyn Fn() + Send + Sync>, Box<Reply>),
}

impl Reply {
    pub(crate) fn message(message: &impl Message) -> Self {
        Self::Messages(vec![message.encode_to_vec()])
    }

    fn into_http(self) -> Response<Body> {
        match self {
            Self::Refusal(status) => status.into_http(),
            Self::Messages(messages) => {
                let mut response = Response::new(Body::from(framed(&messages)));
                let headers = response.headers_mut();
                headers.insert("content-type", "application/grpc".parse().expect("the test can be set up"));
                headers.insert("grpc-status", "0".parse().expect("the test can be set up"));
                response
            }
            Self::Broken(messages) => {
                let parts = [Ok(framed(&messages)), Err(io::Error::other("the cable was cut"))];
                let mut response = Response::new(Body::from_stream(tokio_stream::iter(parts)));
                let headers = response.headers_mut();
                headers.insert("content-type", "application/grpc".parse().expect("the test can be set up"));
                response
            }
            Self::Open => {
                let nothing = tokio_stream::pending::<io::Result<Vec<u8>>>();
                let mut response = Response::new(Body::from_stream(nothing));
                let headers = response.headers_mut();
                headers.insert("content-type", "application/grpc".parse().expect("the test can be set up"));
                response
            }
            Self::After(action, reply) => {
                action();
                reply.into_http()
            }
        }
    }
}

fn framed(messages: &[Vec<u8>]) -> Vec<u8> {
    let mut body = Vec::new();
    for message in messages {
        body.push(0);
        body.extend(u32::try_from(message.len()).expect("the test can be set up").to_be_bytes());
        body.extend(message);
    }
    body
}

fn unframed(mut body: &[u8]) -> Vec<Vec<u8>> {
    let mut messages = Vec::new();
    while let Some((head, rest)) = body.split_first_chunk::<5>() {
        let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]);
        let (message, rest) = rest.split_at(usize::try_from(length).expect("the test can be set up"));
        messages.push(message.to_vec());
        body = rest;
    }
    messages
}

/// A call: its method and the messages of its request.
type Asked = (String, Vec<Vec<u8>>);

/// A server with one script for each method; the last reply of a script is repeated.
pub(crate) struct Server {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<Asked>>>,
    _runtime: tokio::runtime::Runtime,
}

impl Server {
    pub(crate) fn start(script: impl IntoIterator<Item = (&'static str, Vec<Reply>)>) -> Self {
        let script: BTreeMap<&str, Vec<Reply>> = script.into_iter().collect();
        let script = Arc::new(Mutex::new(script));
        let asked = Arc::new(Mutex::new(Vec::new()));
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("the test can be set up");
        let listener =
            runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).expect("the test can be set up");
        let address = listener.local_addr().expect("the test can be set up");
        let heard = Arc::clone(&asked);
        let router = axum::Router::new().fallback(move |request: Request<Body>| {
            let (script, heard) = (Arc::clone(&script), Arc::clone(&heard));
            async move {
                let method =
                    request.uri().path().rsplit('/').next().expect("the test can be set up").to_owned();
                let body = axum::body::to_bytes(request.into_body(), MAX_REQUEST_BYTES).await;
                let messages = unframed(&body.unwrap_or_default());
                heard.lock().expect("the test can be set up").push((method.clone(), messages));
                let mut script = script.lock().expect("the test can be set up");
                let reply = match script.get_mut(method.as_str()) {
                    None => Reply::Refusal(Status::unimplemented(format!("no script for {method}"))),
                    Some(replies) if replies.len() > 1 => replies.remove(0),
                    Some(replies) => replies[0].clone(),
                };
                reply.into_http()
            }
        });
        runtime.spawn(async move { axum::serve(listener, router).await });
        Self { address, asked, _runtime: runtime }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Methods in the order in which they were asked for.
    pub(crate) fn asked(&self) -> Vec<String> {
        let asked = self.asked.lock().expect("the test can be set up");
        asked.iter().map(|(method, _)| method.clone()).collect()
    }

    /// The messages of each request of a method, in order.
    pub(crate) fn requests<M: Message + Default>(&self, method: &str) -> Vec<Vec<M>> {
        let asked = self.asked.lock().expect("the test can be set up");
        let decode = |message: &Vec<u8>| M::decode(&message[..]).expect("the test can be set up");
        let of_method = asked.iter().filter(|(asked, _)| asked == method);
        of_method.map(|(_, messages)| messages.iter().map(decode).collect()).collect()
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Outcome {
        self.run_with(arguments, "", Traits::default())
    }

    pub(crate) fn run_with(&self, arguments: &[&str], input: &'static str, traits: Traits) -> Outcome {
        let url = self.url();
        let arguments: Vec<&str> = arguments.iter().copied().chain(["--server", &url]).collect();
        run(&arguments, input, traits)
    }
}

/// What a command line did.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) code: u8,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Outcome {
    #[track_caller]
    pub(crate) fn assert(&self, code: u8, out: &str, err: &str) {
        assert_eq!((self.code, self.out.as_str(), self.err.as_str()), (code, out, err));
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.out).expect("the output is JSON")
    }
}

#[derive(Clone, Default)]
struct Kept(Rc<RefCell<Vec<u8>>>);

impl Write for Kept {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.borrow_mut().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Kept {
    fn text(&self) -> String {
        String::from_utf8(self.0.borrow().clone()).expect("the test can be set up")
    }
}

/// Runs a command line without the name of the program.
pub(crate) fn run(arguments: &[&str], input: &'static str, traits: Traits) -> Outcome {
    let (out, err) = (Kept::default(), Kept::default());
    let mut terminal = Terminal::new(out.clone(), err.clone(), input.as_bytes(), traits);
    let arguments = ["muster"].iter().chain(arguments).map(Into::into);
    let code = cli::run(arguments, &mut terminal);
    Outcome { code, out: out.text(), err: err.text() }
}
