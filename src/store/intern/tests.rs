//! Names and their numbers.
#![allow(clippy::unwrap_used)]
use super::*;

#[test]
fn a_name_that_was_stored_while_it_was_looked_up_gets_no_second_number() {
    let names: Interner<String> = Interner::default();
    let name = "@a:localhost".to_owned();
    let before = names.settled.load(Ordering::Acquire);
    // One asks and finds nothing; meanwhile another gives it a number, which is stored.
    assert_eq!(names.give(&name, 1, before), Some(1));
    assert_eq!(names.give(&name, 2, before), Some(1), "pending");
    names.settle(names.waiting());
    assert_eq!(names.give(&name, 3, before), None, "to be looked up again");
    assert_eq!(names.known(&name), Some(1));
    assert!(names.waiting().is_empty());
}
