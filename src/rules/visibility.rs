//! Who may see an event at its point of history (client-server API, "Room History Visibility").
//!
//! A pure, total function of a handful of facts; finding the facts (the state at the event, whether the user joined
//! later) is the caller's.

use ruma::events::room::{history_visibility::HistoryVisibility as Setting, member::MembershipState};

/// The setting of `m.room.history_visibility`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum HistoryVisibility {
    /// Anybody, whether or not they ever joined.
    WorldReadable,
    /// Members, back to the beginning. What holds if nothing or nonsense is set.
    Shared,
    /// Members, from their invitation onwards.
    Invited,
    /// Members, from their joining onwards.
    Joined,
}

impl HistoryVisibility {
    /// From the `history_visibility` of the content; anything else is `shared`.
    #[must_use]
    pub fn parse(setting: Option<&str>) -> Self {
        setting.map_or(Self::Shared, |setting| Self::from(&Setting::from(setting)))
    }
}

impl From<&Setting> for HistoryVisibility {
    fn from(setting: &Setting) -> Self {
        match setting {
            Setting::WorldReadable => Self::WorldReadable,
            Setting::Invited => Self::Invited,
            Setting::Joined => Self::Joined,
            _ => Self::Shared,
        }
    }
}

/// A user's membership, as far as visibility cares.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Membership {
    /// In the room.
    Join,
    /// Invited.
    Invite,
    /// Out of it: left, banned, knocking, or never seen.
    Out,
}

impl Membership {
    /// From the `membership` of the content; `None` if there is no member event.
    #[must_use]
    pub fn parse(membership: Option<&str>) -> Self {
        match membership {
            Some("join") => Self::Join,
            Some("invite") => Self::Invite,
            _ => Self::Out,
        }
    }
}

impl From<&MembershipState> for Membership {
    fn from(state: &MembershipState) -> Self {
        match state {
            MembershipState::Join => Self::Join,
            MembershipState::Invite => Self::Invite,
            _ => Self::Out,
        }
    }
}

/// An event as one user stands to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Point {
    /// The setting in the state before the event.
    pub visibility: HistoryVisibility,
    /// The setting after it, if the event is one of `m.room.history_visibility`.
    pub visibility_after: Option<HistoryVisibility>,
    /// The user's membership in the state before the event.
    pub membership: Membership,
    /// Their membership after it, if it is their own member event.
    pub membership_after: Option<Membership>,
    /// Whether they joined at any point after the event, still there or not.
    pub joined_since: bool,
}

/// Whether that user may see that event. An event that changes the setting, or the user's own membership, is seen if
/// either side of the change allows it.
#[must_use]
pub fn may_see(point: &Point) -> bool {
    let settings = [Some(point.visibility), point.visibility_after];
    settings.into_iter().flatten().any(|visibility| {
        let memberships = [Some(point.membership), point.membership_after];
        memberships.into_iter().flatten().any(|membership| allows(visibility, membership, point.joined_since))
    })
}

fn allows(visibility: HistoryVisibility, membership: Membership, joined_since: bool) -> bool {
    match (visibility, membership) {
        (HistoryVisibility::WorldReadable, _) | (_, Membership::Join) => true,
        (HistoryVisibility::Shared, _) => joined_since,
        (HistoryVisibility::Invited, Membership::Invite) => true,
        (HistoryVisibility::Invited | HistoryVisibility::Joined, _) => false,
    }
}

/// Whether an event may be given to another server that has, or had, users in the room: `memberships` are those of its
/// users in the state at the event. Events it may not see are sent redacted (server-server API, "Backfilling and
/// retrieving missing events", by the same settings).
pub fn server_may_see(visibility: HistoryVisibility, memberships: impl IntoIterator<Item = Membership>) -> bool {
    match visibility {
        HistoryVisibility::WorldReadable | HistoryVisibility::Shared => true,
        HistoryVisibility::Invited => memberships.into_iter().any(|m| m != Membership::Out),
        HistoryVisibility::Joined => memberships.into_iter().any(|m| m == Membership::Join),
    }
}

#[cfg(test)]
mod tests {
    use super::{HistoryVisibility::*, Membership::*, *};

    const SETTINGS: [HistoryVisibility; 4] = [WorldReadable, Shared, Invited, Joined];
    const MEMBERSHIPS: [Membership; 3] = [Join, Invite, Out];

    fn points() -> impl Iterator<Item = Point> {
        let after = |v: HistoryVisibility| [None, Some(v)];
        SETTINGS.into_iter().flat_map(move |visibility| {
            SETTINGS.into_iter().flat_map(after).flat_map(move |visibility_after| {
                MEMBERSHIPS.into_iter().flat_map(move |membership| {
                    MEMBERSHIPS.into_iter().flat_map(|m| [None, Some(m)]).flat_map(move |membership_after| {
                        [false, true].map(|joined_since| Point {
                            visibility,
                            visibility_after,
                            membership,
                            membership_after,
                            joined_since,
                        })
                    })
                })
            })
        })
    }

    /// The five rules of the specification, as a table: setting, membership, joined since, verdict.
    const TABLE: [(HistoryVisibility, Membership, bool, bool); 24] = [
        (WorldReadable, Join, false, true),
        (WorldReadable, Join, true, true),
        (WorldReadable, Invite, false, true),
        (WorldReadable, Invite, true, true),
        (WorldReadable, Out, false, true),
        (WorldReadable, Out, true, true),
        (Shared, Join, false, true),
        (Shared, Join, true, true),
        (Shared, Invite, false, false),
        (Shared, Invite, true, true),
        (Shared, Out, false, false),
        (Shared, Out, true, true),
        (Invited, Join, false, true),
        (Invited, Join, true, true),
        (Invited, Invite, false, true),
        (Invited, Invite, true, true),
        (Invited, Out, false, false),
        (Invited, Out, true, false),
        (Joined, Join, false, true),
        (Joined, Join, true, true),
        (Joined, Invite, false, false),
        (Joined, Invite, true, false),
        (Joined, Out, false, false),
        (Joined, Out, true, false),
    ];

    #[test]
    fn the_rules_of_the_specification() {
        for (visibility, membership, joined_since, verdict) in TABLE {
            let point = Point { visibility, visibility_after: None, membership, membership_after: None, joined_since };
            assert_eq!(may_see(&point), verdict, "{point:?}");
        }
    }

    #[test]
    fn a_change_is_seen_if_either_side_allows_it() {
        for point in points() {
            let side = |visibility, membership| {
                may_see(&Point { visibility, visibility_after: None, membership, membership_after: None, ..point })
            };
            let visibility_after = point.visibility_after.unwrap_or(point.visibility);
            let membership_after = point.membership_after.unwrap_or(point.membership);
            let either = side(point.visibility, point.membership)
                || side(visibility_after, point.membership)
                || side(point.visibility, membership_after)
                || side(visibility_after, membership_after);
            assert_eq!(may_see(&point), either, "{point:?}");
        }
    }

    #[test]
    fn nothing_widens_when_a_fact_is_forgotten() {
        for point in points().filter(|p| !may_see(p)) {
            assert!(!may_see(&Point { joined_since: false, ..point }));
            assert!(!may_see(&Point { membership_after: None, ..point }));
            assert!(!may_see(&Point { visibility_after: None, ..point }));
        }
    }

    #[test]
    fn settings_and_memberships_are_read_leniently() {
        assert_eq!(HistoryVisibility::parse(None), Shared);
        assert_eq!(HistoryVisibility::parse(Some("nonsense")), Shared);
        assert_eq!(HistoryVisibility::parse(Some("world_readable")), WorldReadable);
        assert_eq!(HistoryVisibility::parse(Some("invited")), Invited);
        assert_eq!(HistoryVisibility::parse(Some("joined")), Joined);
        assert_eq!(Membership::parse(Some("knock")), Out);
        assert_eq!(Membership::parse(Some("ban")), Out);
        assert_eq!(Membership::from(&MembershipState::Invite), Invite);
    }

    #[test]
    fn servers_see_what_their_users_could() {
        assert!(server_may_see(Shared, []));
        assert!(!server_may_see(Invited, [Out]) && server_may_see(Invited, [Out, Invite]));
        assert!(!server_may_see(Joined, [Invite]) && server_may_see(Joined, [Invite, Join]));
    }
}
