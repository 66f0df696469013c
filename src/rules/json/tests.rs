//! JSON against ruma's canonical JSON, against what Python writes, and against rubbish.
#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use ruma::CanonicalJsonValue;
use serde_json::value::RawValue;

use super::{
    reader::{MAX_DEPTH, MAX_DIGITS, MAX_REQUEST_DEPTH},
    *,
};

fn canonical(text: &str, numbers: Numbers) -> Result<String, Invalid> {
    let mut out = String::new();
    Value::parse(text, numbers)?.write(&mut out);
    Ok(out)
}

#[test]
fn loose_numbers_are_written_as_the_first_servers_do() {
    for (given, written) in [
        ("0", "0"),
        ("-0", "0"),
        ("-0.0", "-0.0"),
        ("1.0", "1.0"),
        ("1e3", "1000.0"),
        ("1E3", "1000.0"),
        ("1e+3", "1000.0"),
        ("1.10", "1.1"),
        ("0.1e1", "1.0"),
        ("123456789012345678901234567890", "123456789012345678901234567890"),
        ("-9007199254740993", "-9007199254740993"),
        ("9007199254740993.0", "9007199254740992.0"),
        ("1e15", "1000000000000000.0"),
        ("1e16", "1e+16"),
        ("12345678901234567.0", "1.2345678901234568e+16"),
        ("1e22", "1e+22"),
        ("1e100", "1e+100"),
        ("0.0001", "0.0001"),
        ("0.00001", "1e-05"),
        ("1.5e-7", "1.5e-07"),
        ("5e-324", "5e-324"),
        ("1e-400", "0.0"),
        ("1.7976931348623157e308", "1.7976931348623157e+308"),
    ] {
        assert_eq!(canonical(given, Numbers::Any).unwrap(), written, "{given}");
    }
    for given in ["1e309", "-1e309", "NaN", "Infinity", "01", "1.", ".5", "+1", "1e", "--1", "-"] {
        canonical(given, Numbers::Any).unwrap_err();
    }
    canonical(&"9".repeat(MAX_DIGITS), Numbers::Any).unwrap();
    canonical(&"9".repeat(MAX_DIGITS + 1), Numbers::Any).unwrap_err();
}

#[test]
fn depth_and_form_have_limits() {
    let nested = |n: usize| "[".repeat(n) + &"]".repeat(n);
    canonical(&nested(MAX_DEPTH), Numbers::Canonical).unwrap();
    canonical(&nested(MAX_DEPTH + 1), Numbers::Any).unwrap_err();
    canonical(&"[".repeat(1_000_000), Numbers::Any).unwrap_err();
    Value::parse_body(&nested(MAX_REQUEST_DEPTH)).unwrap();
    Value::parse_body(&nested(MAX_REQUEST_DEPTH + 1)).unwrap_err();
    for wrong in [
        "",
        " ",
        "{",
        "[",
        "{\"a\"}",
        "{\"a\":}",
        "[1,]",
        "{,}",
        "[1 2]",
        "\"",
        "\"\\\"",
        "\"\\u12\"",
        "\"\\ud800\"",
        "\"\n\"",
        "tru",
        "nul",
        "1 2",
        "{a:1}",
        "\u{a0}1",
    ] {
        canonical(wrong, Numbers::Any).unwrap_err();
    }
    let text =
        r#" { "b" : [ 1 , true ,false,null, "\u00e9\ud83d\ude00\/\u007f\u0001" ] , "a" : { } , "b2" : 1, "a" : 2 } "#;
    assert_eq!(
        canonical(text, Numbers::Canonical).unwrap(),
        "{\"a\":2,\"b\":[1,true,false,null,\"é😀/\u{7f}\\u0001\"],\"b2\":1}"
    );
}

proptest! {
    #[test]
    fn strict_reading_agrees_with_ruma(text in "[-0-9eE.+{}\\[\\]:,\"a\\\\ ]{0,24}") {
        let theirs = serde_json::from_str::<CanonicalJsonValue>(&text).ok().map(|v| v.to_string());
        prop_assert_eq!(canonical(&text, Numbers::Canonical).ok(), theirs);
    }

    #[test]
    fn canonical_text_is_read_back(number in any::<f64>(), int in any::<i128>(), text in any::<String>()) {
        prop_assume!(number.is_finite());
        let value = format!("[{number:e},{int},{}]", serde_json::to_string(&text).unwrap());
        let once = canonical(&value, Numbers::Any).unwrap();
        prop_assert_eq!(canonical(&once, Numbers::Any).unwrap(), once.clone());
        let back: (&RawValue, &RawValue, String) = serde_json::from_str(&once).unwrap();
        let (float, whole): (f64, i128) = (back.0.get().parse().unwrap(), back.1.get().parse().unwrap());
        prop_assert_eq!((float, whole, back.2), (number, int, text));
    }

    #[test]
    fn strings_are_written_as_canonical_json(s in any::<String>()) {
        let mut out = String::new();
        push_str(&mut out, &s);
        prop_assert_eq!(out, serde_json::to_string(&s).unwrap());
    }
}
