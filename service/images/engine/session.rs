//! The session that BuildKit wants of who has something built: a connection by which the engine asks back.
//!
//! It asks for files, secrets and passwords, and nothing of that is here: all it is told is that nobody knows. Without
//! a session it does not even pull an image that anybody may have.

use std::convert::Infallible;

use futures_util::stream;
use http_body_util::StreamBody;
use hyper::body::{Bytes, Frame, Incoming};
use hyper::header::{CONNECTION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, UPGRADE};
use hyper::http;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::task::JoinHandle;

use super::client::Client;
use super::connection::Bounds;
use super::error::Error;

const DOING: &str = "begin a session of a build";

/// Whether who has the build made is still there.
const HEALTH: &str = "/grpc.health.v1.Health/Check";

/// Bytes of questions in all.
const QUESTIONS: u64 = 64 << 20;

/// The answer to that, not compressed, of two bytes: the first field, the state, is 1, serving.
const SERVING: &[u8] = &[0, 0, 0, 0, 2, 0x08, 0x01];

const STATE: HeaderName = HeaderName::from_static("grpc-status");

/// gRPC's number for a method that there is not.
const UNIMPLEMENTED: &str = "12";

/// Ends when it is dropped.
pub(super) struct Session {
    pub id: String,
    answering: JoinHandle<()>,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.answering.abort();
    }
}

impl Session {
    /// `id`: known to nobody else.
    pub async fn open(client: &Client, id: &str) -> Result<Self, Error> {
        let request = Request::builder()
            .method(Method::POST)
            .uri(format!("/{}/session", client.version()))
            .header(CONNECTION, "Upgrade")
            .header(UPGRADE, "h2c")
            .header("X-Docker-Expose-Session-Uuid", id)
            .header("X-Docker-Expose-Session-Name", "albatross-deployer")
            .header("X-Docker-Expose-Session-Sharedkey", "")
            .header("X-Docker-Expose-Session-Grpc-Method", HEALTH)
            .body(http_body_util::Empty::<Bytes>::new());
        let request = request.map_err(|error| Error::Nonsense { doing: DOING, why: error.to_string() })?;
        // It lasts as long as the build, which has deadlines of its own.
        let bounds = Bounds { bytes: QUESTIONS, silence: client.door.patience.whole };
        let asked = async { client.door.send(request, bounds).await };
        let mut response = client.ask(DOING, asked).await?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            let message = "it does not change to HTTP/2".to_owned();
            return Err(Error::Said { doing: DOING, status: response.status().as_u16(), message });
        }
        let upgraded = hyper::upgrade::on(&mut response).await;
        let upgraded = upgraded.map_err(|error| Error::of_transport(DOING, &error))?;
        let answering = tokio::spawn(async move {
            let serving = http2::Builder::new(TokioExecutor::new())
                .timer(TokioTimer::new())
                .max_concurrent_streams(16)
                .serve_connection(TokioIo::new(TokioIo::new(upgraded)), service_fn(answer));
            // The engine ends it with the build.
            let _ = serving.await;
        });
        Ok(Self { id: id.to_owned(), answering })
    }
}

type Answer = StreamBody<stream::Iter<std::vec::IntoIter<Result<Frame<Bytes>, Infallible>>>>;

/// The state stands behind the message also where there is none: what says that it ends with its headers, hyper ends with
/// an empty piece, which gRPC does not take.
async fn answer(request: Request<Incoming>) -> Result<Response<Answer>, http::Error> {
    let (message, state) = if request.uri().path() == HEALTH { (Some(SERVING), "0") } else { (None, UNIMPLEMENTED) };
    let message = message.map(|bytes| Frame::data(Bytes::from_static(bytes)));
    let trailers = HeaderMap::from_iter([(STATE, HeaderValue::from_static(state))]);
    let frames: Vec<_> = message.into_iter().chain([Frame::trailers(trailers)]).map(Ok).collect();
    Response::builder().header(CONTENT_TYPE, "application/grpc").body(StreamBody::new(stream::iter(frames)))
}
