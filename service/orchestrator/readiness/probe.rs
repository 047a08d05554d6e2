//! One question to a unikernel: whether it accepts a connection, or what it answers over HTTP.

use std::error::Error as _;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use http_body_util::Empty;
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::header::{CONNECTION, HOST, HeaderValue, USER_AGENT};
use hyper::http::uri::PathAndQuery;
use hyper::{Request, Response, Uri};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::domain::{HostName, HttpRule};

/// The longest head of an HTTP answer that is read. Bodies are not.
const MAX_HEAD: usize = 16 * 1024;

/// The port that a `Host` header leaves out (RFC 9110, 4.2.1 and 7.2).
const HTTP_PORT: u16 = 80;

const AGENT: &str = concat!("albatross-deployer/", env!("CARGO_PKG_VERSION"));

/// Whether `target` accepts a connection, which may take `limit` to come about.
pub async fn tcp(target: SocketAddr, limit: Duration) -> Result<(), String> {
    connect(target, limit).await.map(drop)
}

/// Whether `address` answers a GET as `rule` wants it. Without an end of its own but for the connection's `limit`: the
/// caller sets it.
pub async fn http(address: IpAddr, rule: &HttpRule, limit: Duration) -> Result<(), String> {
    let target = SocketAddr::new(address, rule.port);
    let stream = connect(target, limit).await?;
    let path = &rule.path;
    let answer = head(stream, request(address, rule)?).await;
    let status = answer.map_err(|error| format!("{target}{path} {}", in_words(&error)))?.status().as_u16();
    if rule.statuses.contains(status) {
        return Ok(());
    }
    Err(format!("{target}{path} answers with status {status}"))
}

async fn connect(target: SocketAddr, limit: Duration) -> Result<TcpStream, String> {
    match timeout(limit, TcpStream::connect(target)).await {
        Ok(stream) => stream.map_err(|error| format!("{target}: {error}")),
        Err(_) => Err(format!("{target} does not answer")),
    }
}

fn request(address: IpAddr, rule: &HttpRule) -> Result<Request<Empty<Bytes>>, String> {
    let invalid = |error: hyper::http::Error| format!("a request for {rule} cannot be made: {error}");
    let path = rule.path.parse::<PathAndQuery>().map_err(|error| invalid(error.into()))?;
    let host = host(address, rule.host.as_ref(), rule.port);
    let request = Request::get(Uri::from(path))
        .header(HOST, HeaderValue::try_from(host).map_err(|error| invalid(error.into()))?)
        .header(USER_AGENT, AGENT)
        .header(CONNECTION, "close");
    request.body(Empty::new()).map_err(invalid)
}

/// What the `Host` header is: as any client writes it that was given the URI `http://HOST:PORT/`.
fn host(address: IpAddr, name: Option<&HostName>, port: u16) -> String {
    let host = match (name, address) {
        (Some(name), _) => name.to_string(),
        (None, IpAddr::V4(address)) => address.to_string(),
        (None, IpAddr::V6(address)) => format!("[{address}]"),
    };
    if port == HTTP_PORT { host } else { format!("{host}:{port}") }
}

/// The head of the final answer: hyper passes over those with 1xx.
async fn head(stream: TcpStream, request: Request<Empty<Bytes>>) -> hyper::Result<Response<Incoming>> {
    let mut client = http1::Builder::new();
    // Names of headers as people write them: a small server may compare them letter by letter.
    client.max_buf_size(MAX_HEAD).title_case_headers(true);
    let (mut sender, connection) = client.handshake(TokioIo::new(stream)).await?;
    let answer = sender.send_request(request);
    tokio::pin!(answer);
    tokio::select! {
        biased;
        answered = &mut answer => answered,
        // It has ended with an answer or an error, which is the sender's to say.
        _ = connection => answer.await,
    }
}

fn in_words(error: &hyper::Error) -> String {
    // A connection that has ended before the request was sent, and why.
    let before = error.source().and_then(|source| source.downcast_ref::<hyper::Error>());
    if let Some(before) = before {
        in_words(before)
    } else if error.is_parse_too_large() {
        "answers with a head that does not end".into()
    } else if error.is_parse() {
        "does not answer in HTTP".into()
    } else if error.is_incomplete_message() {
        "ends the connection before its answer is whole".into()
    } else if let Some(reason) = error.source() {
        format!("does not answer: {reason}")
    } else if error.is_canceled() || error.is_closed() {
        format!("does not answer: {error}")
    } else {
        // Bytes that came before the request: hyper has no name for that.
        "does not answer in HTTP".into()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;
    use crate::domain::Readiness;

    const LIMIT: Duration = Duration::from_secs(5);

    fn rule(text: &str) -> HttpRule {
        match text.parse() {
            Ok(Readiness::Http(rule)) => rule,
            other => panic!("{text}: {other:?}"),
        }
    }

    /// What `rule`, whose port is taken from the server, makes of `answer`, and the request.
    async fn ask(text: &str, answer: &'static [u8], reset: bool) -> (Result<(), String>, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                assert_ne!(stream.read_buf(&mut request).await.unwrap(), 0);
            }
            stream.write_all(answer).await.unwrap();
            if reset {
                stream.set_zero_linger().unwrap();
            } else {
                stream.shutdown().await.unwrap();
            }
            String::from_utf8(request).unwrap()
        });
        let rule = HttpRule { port, ..rule(text) };
        let outcome = timeout(LIMIT, http([127, 0, 0, 1].into(), &rule, LIMIT)).await.unwrap();
        (outcome, server.await.unwrap().replace(&format!(":{port}\r\n"), ":PORT\r\n"))
    }

    #[tokio::test]
    async fn requests() {
        let (outcome, request) = ask("http:1/a?b", b"HTTP/1.1 204 No Content\r\n\r\n", false).await;
        assert_eq!(outcome, Ok(()));
        let agent = format!("User-Agent: {AGENT}\r\n");
        assert_eq!(request, format!("GET /a?b HTTP/1.1\r\nHost: 127.0.0.1:PORT\r\n{agent}Connection: close\r\n\r\n"));
        let (_, request) = ask("http://www.example.org:1/", b"HTTP/1.1 204 No Content\r\n\r\n", false).await;
        assert!(request.starts_with("GET / HTTP/1.1\r\nHost: www.example.org:PORT\r\n"), "{request}");
    }

    #[test]
    fn hosts() {
        let name = |text: &str| rule(text).host.unwrap();
        let (v4, v6): (IpAddr, IpAddr) = ([10, 0, 0, 2].into(), "fd00::2".parse().unwrap());
        assert_eq!(host(v4, None, 80), "10.0.0.2");
        assert_eq!(host(v4, None, 8080), "10.0.0.2:8080");
        assert_eq!(host(v6, None, 80), "[fd00::2]");
        assert_eq!(host(v6, None, 443), "[fd00::2]:443");
        assert_eq!(host(v4, Some(&name("http://a.example:80/")), 80), "a.example");
        assert_eq!(host(v4, Some(&name("http://[fd00::1]:81/")), 81), "[fd00::1]:81");
    }

    #[tokio::test]
    async fn answers() {
        for (answer, accepted) in [
            (&b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc"[..], true),
            (b"HTTP/1.1 200 OK\r\nContent-Length: 300\r\n\r\nabc", true),
            (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", true),
            (b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nabc", true),
            (b"HTTP/1.1 200\r\n\r\n", true),
            (b"HTTP/1.0 200 OK\n\n", true),
            (b"HTTP/1.0 302 Found\r\nLocation: https://elsewhere.example/\r\n\r\n", true),
            (b"HTTP/1.1 304 Not Modified\r\n\r\n", true),
            (b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\n\r\n", true),
            (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 503 Busy\r\n\r\n", false),
            (b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n", false),
            (b"HTTP/1.1 404 Not Found\r\n\r\n", false),
        ] {
            let shown = String::from_utf8_lossy(answer);
            for reset in [false, true] {
                let (outcome, _) = ask("http:1/", answer, reset).await;
                assert_eq!(outcome.is_ok(), accepted, "{shown:?}, reset: {reset}: {outcome:?}");
                assert!(outcome.is_ok() || outcome.unwrap_err().contains("answers with status"), "{shown:?}");
            }
        }
        let (outcome, _) = ask("http:1/;status=401,503", b"HTTP/1.1 401 Unauthorized\r\n\r\n", false).await;
        assert_eq!(outcome, Ok(()));
        let (outcome, _) = ask("http:1/;status=401,503", b"HTTP/1.1 200 OK\r\n\r\n", false).await;
        assert!(outcome.unwrap_err().ends_with("answers with status 200"));
    }

    #[tokio::test]
    async fn what_is_no_answer() {
        for (answer, why) in [
            (&b""[..], "ends the connection before"),
            (b"HTTP/1.1 200 OK\r\nX: y", "ends the connection before"),
            (b"HTTP/1.1 100 Continue\r\n\r\n", "ends the connection before"),
            (b"SSH-2.0-OpenSSH\r\n", "does not answer in HTTP"),
            (b"HTTP/1.1 2000 x\r\n\r\n", "does not answer in HTTP"),
            (b"HTTP/2.0 200 OK\r\n\r\n", "does not answer in HTTP"),
        ] {
            let (outcome, _) = ask("http:1/", answer, false).await;
            let said = outcome.unwrap_err();
            assert!(said.contains(why), "{}: {said}", String::from_utf8_lossy(answer));
        }
    }

    #[tokio::test]
    async fn who_speaks_before_it_is_asked_does_not_answer_in_http() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stream = TcpStream::connect(address).await.unwrap();
        let (mut server, _) = listener.accept().await.unwrap();
        server.write_all(b"SSH-2.0-OpenSSH\r\n").await.unwrap();
        stream.readable().await.unwrap();
        let request = request(address.ip(), &rule("http:1/")).unwrap();
        let error = timeout(LIMIT, head(stream, request)).await.unwrap().unwrap_err();
        assert_eq!(in_words(&error), "does not answer in HTTP", "{error:?}");
    }
}
