//! The configuration as a whole: files in, typed values or all mistakes out.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod checklist;
mod files;
mod generated;
mod mistakes;
mod old;
mod sections;
mod tutorial;

use std::{fs, path::PathBuf};

use tempfile::TempDir;

use crate::{Config, Env, Loaded, Mistakes, NoticeSort};

/// The least that a configuration needs.
const LEAST: &str = "server_name: example.com\n";

/// A directory with files, and the configuration that they make.
struct Files(TempDir);

impl Files {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, text).unwrap();
        path
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn load(&self, text: &str) -> Result<Loaded, Mistakes> {
        Config::load(&[self.write("homeserver.yaml", text)], Env::default())
    }
}

fn load(text: &str) -> Result<Loaded, Mistakes> {
    Files::new().load(text)
}

/// Options on top of the least; must load.
fn with(options: &str) -> Config {
    loaded(options).config
}

fn loaded(options: &str) -> Loaded {
    load(&format!("{LEAST}{options}")).unwrap_or_else(|mistakes| panic!("{mistakes}"))
}

/// `key@line` of each mistake; options stand from line 2 on.
fn wrong(options: &str) -> Vec<String> {
    let mistakes = load(&format!("{LEAST}{options}")).expect_err(options);
    let line = |mistake: &crate::Mistake| mistake.place.as_ref().map_or(0, |place| place.line);
    mistakes.0.iter().map(|mistake| format!("{}@{}", mistake.key, line(mistake))).collect()
}

/// The keys of the notices of a sort.
fn noticed(options: &str, sort: NoticeSort) -> Vec<String> {
    loaded(options).notices.into_iter().filter(|notice| notice.sort == sort).map(|notice| notice.key).collect()
}
