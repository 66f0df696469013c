//! The commands beside `serve`.

use super::*;

#[test]
fn every_command_has_help() {
    let home = Home::new();
    let told = home.run(&["--help"]);
    assert_eq!(told.code, Some(0));
    let commands = ["serve", "check-config", "generate", "generate-keys", "register-user", "hash-password", "version"];
    says(&told.stdout, &commands);
    for command in commands {
        let told = home.run(&[command, "--help"]);
        assert_eq!(told.code, Some(0), "{told:?}");
        says(&told.stdout, &["Usage:"]);
    }
    let version = concat!("hearth ", env!("CARGO_PKG_VERSION"));
    assert_eq!(home.run(&["version"]).stdout.trim(), version);
    assert_eq!(home.run(&["--version"]).stdout.trim(), version);
}
