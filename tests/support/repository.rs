//! Git repositories for tests.
#![allow(dead_code, reason = "each test takes of this module what it needs")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A bare repository, made from a folder of files commit by commit.
pub struct Repository {
    folder: tempfile::TempDir,
}

impl Repository {
    pub fn new(files: &[(&str, &str)]) -> Self {
        let repository = Self { folder: tempfile::tempdir().unwrap() };
        // Others are to come as far as the repository itself.
        fs::set_permissions(repository.folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        fs::create_dir(repository.tree()).unwrap();
        repository.git(&["init", "-q", "-b", "main", "."]);
        repository.git(&["init", "-q", "--bare", "-b", "main", "../website.git"]);
        repository.commit(files);
        repository
    }

    /// The folder in which it stands as `website.git`.
    pub fn root(&self) -> &Path {
        self.folder.path()
    }

    pub fn path(&self) -> PathBuf {
        self.folder.path().join("website.git")
    }

    /// `git+file://`.
    pub fn url(&self) -> String {
        format!("git+file://{}", self.path().display())
    }

    fn tree(&self) -> PathBuf {
        self.folder.path().join("tree")
    }

    pub fn git(&self, arguments: &[&str]) -> String {
        let mut git = Command::new("git");
        git.env_clear().env("PATH", std::env::var_os("PATH").unwrap()).env("GIT_CONFIG_NOSYSTEM", "1");
        for who in ["AUTHOR", "COMMITTER"] {
            git.env(format!("GIT_{who}_NAME"), "a").env(format!("GIT_{who}_EMAIL"), "a@example.org");
        }
        let output = git.current_dir(self.tree()).args(arguments).output().unwrap();
        assert!(output.status.success(), "git {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// Changes these files and returns the commit, which is main's.
    pub fn commit(&self, files: &[(&str, &str)]) -> String {
        for (name, text) in files {
            let path = self.tree().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        self.git(&["add", "-A", "."]);
        self.git(&["commit", "-q", "-m", "x"]);
        self.push("main");
        self.git(&["rev-parse", "HEAD"])
    }

    pub fn push(&self, reference: &str) {
        self.git(&["push", "-q", "../website.git", reference]);
    }
}
