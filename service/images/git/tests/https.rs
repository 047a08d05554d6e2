//! The same over HTTPS: git's own server program, behind a certificate that only the test trusts.

use super::git_servers::HttpsServer;
use super::*;

fn trusting(server: &HttpsServer) -> Wishes {
    Wishes { access: Access { certificates: Some(server.certificate()), ..Default::default() }, ..Default::default() }
}

#[test]
fn repositories_are_taken_over_https() {
    let repository = Repository::new();
    repository.git(&["tag", "-a", "-m", "x", "v1"]);
    let head = repository.git(&["rev-parse", "HEAD"]);
    let Some(server) = HttpsServer::start(repository.folder.path()) else { return };
    for reference in ["", "main", "v1", &head] {
        let taken = take(&server.url(".git"), reference, &trusting(&server)).unwrap();
        assert_eq!((taken.commit.as_str(), taken.file("config.ml").len()), (head.as_str(), 27), "{reference}");
    }
    for (path, words) in [("absent", "not found"), ("private/x", "no access to it")] {
        let error = take(&server.url(path), "main", &trusting(&server)).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    }
    let error = take(&server.url(".git"), "main", &Wishes::default()).unwrap_err().to_string();
    assert!(error.contains("certificate"), "{error}");
}
