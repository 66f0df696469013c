//! The operator's rules about who may make which alias and who may publish which room.

use ruma::{RoomId, UserId};

use hearth_rules::push::glob::matches;

/// Decides if its three globs fit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Who asks.
    pub user: String,
    /// The alias, or one of those of the room.
    pub alias: String,
    /// The room.
    pub room: String,
    /// The answer.
    pub allow: bool,
}

/// Whether the rules allow it; without rules everything is.
pub(super) fn allow(rules: Option<&[Rule]>, user: &UserId, room: &RoomId, aliases: &[&str]) -> bool {
    let Some(rules) = rules else { return true };
    let fits = |rule: &&Rule| {
        matches(user.as_str(), &rule.user)
            && matches(room.as_str(), &rule.room)
            // A room without any alias fits only what fits all of them.
            && (rule.alias == "*" || aliases.iter().any(|alias| matches(alias, &rule.alias)))
    };
    rules.iter().find(fits).is_some_and(|rule| rule.allow)
}

#[cfg(test)]
mod tests {
    use ruma::{room_id, user_id};

    use super::*;

    fn rule(user: &str, alias: &str, room: &str, allow: bool) -> Rule {
        Rule { user: user.to_owned(), alias: alias.to_owned(), room: room.to_owned(), allow }
    }

    #[test]
    fn the_first_rule_that_fits_decides_and_none_is_no() {
        let (ada, room) = (user_id!("@ada:a.test"), room_id!("!r:a.test"));
        assert!(allow(None, ada, room, &[]));
        assert!(!allow(Some(&[]), ada, room, &["#x:a.test"]));
        let rules = [rule("@eve:*", "*", "*", false), rule("*", "#Ada-*", "*", true)];
        assert!(allow(Some(&rules), ada, room, &["#ada-x:a.test"]));
        assert!(!allow(Some(&rules), user_id!("@eve:a.test"), room, &["#ada-x:a.test"]));
        assert!(!allow(Some(&rules), ada, room, &["#x:a.test"]));
        assert!(!allow(Some(&rules), ada, room, &[]), "no alias fits no pattern");
        assert!(allow(Some(&[rule("*", "*", "!r:*", true)]), ada, room, &[]));
        assert!(!allow(Some(&[rule("*", "*", "!q:*", true)]), ada, room, &[]));
    }
}
