//! What PyYAML 6.0 `safe_load` makes of the same text; the expected values were taken from it.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::path::Path;

use super::*;

fn parse_ok(text: &str) -> Node {
    parse(text, &Path::new("t.yaml").into()).unwrap().unwrap()
}

fn fault(text: &str) -> Mistake {
    parse(text, &Path::new("t.yaml").into()).unwrap_err()
}

fn value(text: &str) -> Value {
    parse_ok(&format!("k: {text}")).get("k").unwrap().value.clone()
}

#[test]
fn scalars_mean_what_they_mean_in_yaml_1_1() {
    for text in ["yes", "Yes", "YES", "on", "true", "TRUE", "!!bool 'yes'"] {
        assert_eq!(value(text), Value::Bool(true), "{text}");
    }
    for text in ["no", "off", "Off", "false"] {
        assert_eq!(value(text), Value::Bool(false), "{text}");
    }
    for (text, n) in [
        ("0777", 511),
        ("0_7", 7),
        ("0b101", 5),
        ("0x1F", 31),
        ("1_000", 1000),
        ("1_", 1),
        ("+12", 12),
        ("-12", -12),
        ("-1_0", -10),
        ("0", 0),
        ("00", 0),
        ("-0", 0),
        ("1:30", 90),
        ("1:5", 65),
        ("-1:30", -90),
        ("1:30:00", 5400),
        ("12345678901234567", 12_345_678_901_234_567),
        ("!!int '12'", 12),
        ("! 12", 12),
    ] {
        assert_eq!(value(text), Value::Int(n), "{text}");
    }
    for (text, f) in [
        ("1.5", 1.5),
        ("1.", 1.0),
        (".5", 0.5),
        ("1._5", 1.5),
        ("1.5e+3", 1500.0),
        (".inf", f64::INFINITY),
        ("-.INF", f64::NEG_INFINITY),
        ("190:20:30.15", 685_230.15),
        ("1:30:5.5", 5405.5),
        ("!!float 1", 1.0),
    ] {
        assert_eq!(value(text), Value::Float(f), "{text}");
    }
    for text in ["~", "null", "NULL", "", "!!null x"] {
        assert_eq!(value(text), Value::Null, "{text}");
    }
    for text in [
        "yEs",
        "y",
        "n",
        "tRUE",
        "0o777",
        "0888",
        "01:30",
        "1e3",
        "1.5e3",
        "1e+3",
        "-.5",
        "+.nan",
        "nUll",
        "2018-06-01",
        "_1",
        "1.2.3",
        "0x",
        "0b2",
        "._",
        "1:60",
        ".",
        "10.0.0.0/8",
    ] {
        assert_eq!(value(text), Value::Str(text.to_owned()), "{text}");
    }
    assert_eq!(value("'yes'"), Value::Str("yes".to_owned()));
    assert_eq!(value("\"1\""), Value::Str("1".to_owned()));
    assert_eq!(value("!!str 12"), Value::Str("12".to_owned()));
    assert!(matches!(value(".nan"), Value::Float(f) if f.is_nan()));
    assert!(matches!(value("123456789012345678901234"), Value::Float(_)));
}

#[test]
fn the_last_of_equal_keys_wins() {
    let node = parse_ok("a: 1\nb: 2\na: 3\n");
    assert_eq!(node.get("a").unwrap().value, Value::Int(3));
    assert_eq!(node.get("a").unwrap().place.line, 3);
}

#[test]
fn keys_keep_their_words() {
    let node = parse_ok("on: 1\n0777: 2\n'x': 3\n");
    let Value::Map(map) = node.value else { panic!() };
    let keys: Vec<_> = map.0.iter().map(|(key, _)| key.as_str()).collect();
    assert_eq!(keys, ["on", "0777", "x"]);
}

#[test]
fn anchors_and_merge_keys() {
    let node = parse_ok(
        "base: &base {a: 1, b: 1}\nother: &other {b: 2, c: 2}\none:\n  <<: *base\n  a: 9\nmany:\n  <<: [*base, *other]\nlate:\n  a: 9\n  <<: *base\nalias: *base\nquoted:\n  '<<': 1\n",
    );
    let pairs = |key: &str| {
        let Value::Map(map) = &node.get(key).unwrap().value else { panic!() };
        let mut pairs: Vec<_> = map.0.iter().map(|(key, node)| format!("{key}={}", node.raw)).collect();
        pairs.sort();
        pairs.join(" ")
    };
    assert_eq!(pairs("one"), "a=9 b=1");
    assert_eq!(pairs("many"), "a=1 b=1 c=2", "the first mapping of a list wins");
    assert_eq!(pairs("late"), "a=9 b=1", "own keys win wherever << stands");
    assert_eq!(pairs("alias"), "a=1 b=1");
    assert_eq!(pairs("quoted"), "<<=1", "a quoted << is a key like any other");
    assert_eq!(node.get("one").unwrap().get("b").unwrap().place.line, 1, "a merged value stands where it was written");
}

#[test]
fn lines_of_blocks_lists_and_text() {
    let node = parse_ok("# comment\n\na:\n  - x\n  - |\n    two\n    lines\n  - {k: v}\nb: >-\n  folded\n  text\n");
    let Value::List(items) = &node.get("a").unwrap().value else { panic!() };
    assert_eq!(items.iter().map(|item| item.place.line).collect::<Vec<_>>()[..1], [4]);
    assert_eq!(items[1].value, Value::Str("two\nlines\n".to_owned()));
    assert_eq!(items[2].get("k").unwrap().place.line, 8);
    assert_eq!(node.get("b").unwrap().value, Value::Str("folded text".to_owned()));
}

#[test]
fn what_safe_load_refuses_is_refused_with_its_line() {
    assert_eq!(fault("a: 1\nb: [1, 2\nc: 3\n").place.unwrap().file.as_ref(), Path::new("t.yaml"));
    assert_eq!(fault("a: 1\nb: !!python/object:os.system x\n").place.unwrap().line, 2);
    assert_eq!(fault("a: 1\n---\nb: 2\n").place.unwrap().line, 2);
    assert_eq!(fault("a: 1\nb: {{ template }}\n").place.unwrap().line, 2);
    assert_eq!(fault("a: 1\n<<: 2\n").place.unwrap().line, 2);
    assert_eq!(fault("a: !!int x\n").place.unwrap().line, 1);
    assert_eq!(fault("a:\n  b: 1\n c: 2\n").place.unwrap().line, 3);
    assert!(parse("a: *nobody\n", &Path::new("t").into()).is_err());
    assert!(parse("a: &a [*a]\n", &Path::new("t").into()).is_err());
}

#[test]
fn nothing_is_nothing_and_a_byte_order_mark_is_no_text() {
    let file = Path::new("t").into();
    assert_eq!(parse("", &file).unwrap(), None);
    assert_eq!(parse("# only a comment\n", &file).unwrap(), None);
    assert_eq!(parse_ok("\u{feff}a: 1\n").get("a").unwrap().value, Value::Int(1));
}

#[test]
fn bombs_do_not_go_off() {
    let mut deep = String::from("a: ");
    deep.push_str(&"[".repeat(5000));
    assert!(parse(&deep, &Path::new("t").into()).is_err());
    let mut wide = String::from("a: &a [x,x,x,x,x,x,x,x,x,x]\n");
    for (from, to) in "abcdefgh".chars().zip("bcdefghi".chars()) {
        wide.push_str(&format!(
            "{to}: &{to} [*{from},*{from},*{from},*{from},*{from},*{from},*{from},*{from},*{from},*{from}]\n"
        ));
    }
    assert!(fault(&wide).fault.contains("more than"));
}
