//! /sync: what changed for a user since they last asked, or everything (spec: client-server API, "Syncing").
//!
//! The answer is written as text: events are spliced from what is cached, nothing is parsed and written again. A waiting
//! sync arms its bell before it looks; a wake-up that turns out not to concern it costs one look at its rooms' positions.
//! A caller who goes away drops the future; nothing of it needs to finish.

use std::{collections::HashSet, sync::Arc, time::Duration};

use hearth_base::{
    Error, Requester, Result,
    cache::Cache,
    ids::{EventNid, StreamPos, UserNid},
    stream::SyncToken,
};
use hearth_store::{Store, membership::Membership};
use ruma::{events::room::member::MembershipState, presence::PresenceState};

use crate::{
    account_data::{AccountData, filters},
    devices::to_device::ToDevice,
    history::{Form, History},
    keys::Keys,
    notifier::{Listening, Notifier, UserRooms, UserSlot},
    presence::Presence,
    push::Push,
    receipts::Receipts,
    state::State,
    typing::Typing,
};

pub mod filter;
mod old;
mod own;
mod rooms;
mod section;
mod told;

pub use filter::Filter;
use own::OwnData;

/// How /sync is configured.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Timeline events a room at most, whatever a filter asks for (`filter_timeline_limit`).
    pub timeline_limit: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self { timeline_limit: 100 }
    }
}

/// The longest a sync waits, whatever the client asks for.
const LONGEST: Duration = Duration::from_secs(300);

/// The services whose news /sync tells, beside rooms and their events.
pub struct Sources {
    /// Account data.
    pub account_data: Arc<AccountData>,
    /// Unread counts.
    pub push: Arc<Push>,
    /// Device lists and key counts.
    pub keys: Arc<Keys>,
    /// To-device messages.
    pub to_device: Arc<ToDevice>,
    /// Receipts.
    pub receipts: Arc<Receipts>,
    /// Who types.
    pub typing: Arc<Typing>,
    /// Who is here.
    pub presence: Arc<Presence>,
}

/// Answers syncs.
pub struct Sync {
    pub(crate) store: Store,
    pub(crate) state: Arc<State>,
    pub(crate) history: Arc<History>,
    pub(crate) notifier: Arc<Notifier>,
    pub(crate) sources: Sources,
    pub(crate) settings: Settings,
    /// Filters made ready, by user and number or by their text.
    filters: Cache<FilterKey, Arc<Filter>>,
    told: told::Told,
}

/// By what a filter is remembered: the text of an inline one, or its owner and number.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum FilterKey {
    Inline(Box<str>),
    Kept(UserNid, i64),
}

/// How often an answer begins anew because the user's rooms changed under it.
const RACES: usize = 5;
/// Filters remembered.
const FILTERS: u64 = 2_000;
/// Bytes of a filter that is worth remembering.
const SMALL_FILTER: usize = 2048;

impl std::fmt::Debug for Sync {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Sync")
    }
}

/// What a client asks.
#[derive(Debug, Default)]
pub struct Ask {
    /// Which events.
    pub filter: Arc<Filter>,
    /// Since when; `None` for everything.
    pub since: Option<String>,
    /// All state even where nothing changed.
    pub full_state: bool,
    /// How long to wait for news.
    pub timeout: Duration,
    /// State at the end of the timeline instead of at its beginning (spec v1.16, `use_state_after`).
    pub state_after: bool,
    /// The same under its unstable name.
    pub state_after_unstable: bool,
    /// How the user is to be seen meanwhile (`set_presence`).
    pub set_presence: PresenceState,
}

/// Which answer is wanted.
#[derive(Debug)]
enum Wanted {
    /// That of /sync.
    Sync,
    /// One stream of what is new, or what is new in one room.
    Events(Option<Listening>),
}

/// One answer in the making.
pub(crate) struct Turn<'a> {
    pub(crate) who: &'a Requester,
    pub(crate) ask: &'a Ask,
    pub(crate) slot: &'a UserSlot,
    /// `None` in an initial sync.
    pub(crate) since: Option<SyncToken>,
    pub(crate) now: SyncToken,
}

impl Turn<'_> {
    /// Position after which things are news.
    pub(crate) fn after(&self) -> StreamPos {
        self.since.map_or(StreamPos::ZERO, |s| s.pos)
    }

    /// Ephemeral counter after which things are news; another run's count says nothing.
    pub(crate) fn after_ephemeral(&self) -> u64 {
        self.since.filter(|s| s.boot == self.now.boot).map_or(0, |s| s.ephemeral)
    }

    /// Whether state is told as of the end of timelines, under whichever name.
    pub(crate) fn wants_state_after(&self) -> bool {
        self.ask.state_after || self.ask.state_after_unstable
    }

    /// How the filter wants events written.
    pub(crate) fn form(&self) -> Form<'_> {
        let filter = &self.ask.filter;
        Form { fields: filter.event_fields.as_ref(), federation: filter.federation_format, ..Form::default() }
    }

    /// Whether the client's ephemeral picture is of another run, and so worth nothing.
    pub(crate) fn other_run(&self) -> bool {
        self.since.is_some_and(|s| s.boot != self.now.boot)
    }
}

impl Sync {
    /// Made once.
    #[must_use]
    pub fn new(
        store: Store,
        state: Arc<State>,
        history: Arc<History>,
        notifier: Arc<Notifier>,
        sources: Sources,
        settings: Settings,
    ) -> Self {
        Self {
            store,
            state,
            history,
            notifier,
            sources,
            settings,
            filters: Cache::new(FILTERS),
            told: told::Told::new(),
        }
    }

    /// The filter that a client names: JSON, or the number of one it has kept with us.
    ///
    /// # Errors
    /// 400 for what is neither.
    pub async fn filter(&self, who: &Requester, named: &str) -> Result<Arc<Filter>> {
        let key = match named.parse() {
            Ok(number) => FilterKey::Kept(who.user_nid, number),
            Err(_) => FilterKey::Inline(named.into()),
        };
        if let Some(filter) = self.filters.get(&key) {
            return Ok(filter);
        }
        let text = self.sources.account_data.filter_text(who.user_nid, named).await?;
        let filter = Arc::new(Filter::of(filters::read(&text)?));
        if text.len() <= SMALL_FILTER {
            self.filters.insert(key, filter.clone());
        }
        Ok(filter)
    }

    /// Answers one sync: a JSON text.
    ///
    /// # Errors
    /// 400 for a token that is not ours; else if the database fails.
    pub async fn sync(&self, who: &Requester, ask: &Ask) -> Result<String> {
        let since = match &ask.since {
            Some(token) => self.since(token)?,
            None => None,
        };
        self.answer(who, ask, since, &Wanted::Sync).await
    }

    /// Looks until there is something to say, or it has been waited long enough.
    async fn answer(&self, who: &Requester, ask: &Ask, since: Option<SyncToken>, wanted: &Wanted) -> Result<String> {
        let deadline = tokio::time::Instant::now() + ask.timeout.min(LONGEST);
        let slot = self.notifier.user(who.user_nid);
        let stopping = self.notifier.stopping();
        // The user counts as here for as long as this is held.
        let _here = self.sources.presence.syncing(who, ask.set_presence.clone()).await?;
        if let Some(since) = since
            && since.to_device > 0
        {
            // The client has what its token says: that is the moment to delete it. Safe to repeat.
            self.sources.to_device.received(who, since.to_device).await?;
        }
        // How often the user's rooms had changed when they were looked at, with what was being published.
        let mut known = None;
        loop {
            let bell = slot.bell().notified();
            tokio::pin!(bell);
            bell.as_mut().enable();
            let mut turn = Turn { who, ask, slot: &slot, since, now: self.now(since) };
            let is_over = tokio::time::Instant::now() >= deadline || stopping.is_cancelled();
            let must_answer = since.is_none() || ask.full_state || is_over;
            let answer = match wanted {
                Wanted::Sync => self.look(&mut turn, must_answer).await?,
                Wanted::Events(room) => Box::pin(self.look_at_events(&mut turn, room.as_ref(), must_answer)).await?,
            };
            if let Some(answer) = answer {
                return Ok(answer);
            }
            // What was being published while the rooms became known here, or who listens to one, rings no bell of ours.
            let changes = slot.room_changes();
            if known.replace(changes) != Some(changes) && self.notifier.published_after(turn.now.pos).await {
                continue;
            }
            let _waits = slot.waits();
            tokio::select! {
                () = bell => {}
                () = tokio::time::sleep_until(deadline) => {}
                // Whoever waits is answered, and comes back to who runs next.
                () = stopping.cancelled() => {}
            }
        }
    }

    /// The token of an answer that tells all there is, to whom has to-device messages up to `since`.
    fn now(&self, since: Option<SyncToken>) -> SyncToken {
        SyncToken {
            pos: self.store.head(),
            to_device: since.map_or(0, |s| s.to_device),
            boot: self.notifier.boot(),
            ephemeral: self.notifier.ephemeral(),
        }
    }

    /// Reads a token. One that was given on a history which this database does not have (an older backup was restored,
    /// an older replica took over) starts anew: what it stands for has been given out a second time.
    fn since(&self, token: &str) -> Result<Option<SyncToken>> {
        let token: SyncToken =
            token.parse().map_err(|_| Error::invalid_param("This is no token that this server gives for syncing"))?;
        Ok(self.store.gave_out(token.boot, token.pos).then_some(token))
    }

    /// Puts an answer together; `None` if there is nothing to say and it need not be said.
    async fn look(&self, turn: &mut Turn<'_>, must_answer: bool) -> Result<Option<String>> {
        let mut rooms = self.notifier.rooms_of(turn.slot).await?;
        for _ in 0..RACES {
            if rooms.newest <= turn.now.pos {
                break;
            }
            // A stay that began or ended since is told with what it came with.
            turn.now = self.now(turn.since);
            rooms = self.notifier.rooms_of(turn.slot).await?;
        }
        self.told.begin(turn);
        let mut out = String::with_capacity(if turn.since.is_some() { 2048 } else { 64 * 1024 });
        out.push('{');
        let own = self.own_data(turn).await?;
        let mut news = self.write_own_data(&mut out, turn, &own)?;
        news |= self.write_to_device(&mut out, turn).await?;
        news |= self.write_device_lists(&mut out, turn).await?;
        news |= self.write_presence(&mut out, turn).await?;
        news |= self.write_rooms(&mut out, turn, &rooms, &own).await?;
        if !news && !must_answer {
            return Ok(None);
        }
        self.write_key_counts(&mut out, turn).await?;
        section::key(&mut out, "next_batch");
        out.push('"');
        out.push_str(&turn.now.to_string());
        out.push_str("\"}");
        self.told.end(turn);
        Ok(Some(out))
    }

    /// The events by which others took the user out of rooms. Those rooms are shown from the start, wanted or not, so that
    /// who logs in anew learns what became of them, as with Synapse.
    async fn removed_from(&self, turn: &Turn<'_>, rooms: &UserRooms) -> Result<HashSet<EventNid>> {
        if turn.since.is_some() || turn.ask.filter.include_leave {
            return Ok(HashSet::new());
        }
        let gone =
            |m: &&Membership| matches!(m.membership, MembershipState::Leave | MembershipState::Ban) && !m.forgotten;
        let events: Vec<EventNid> = rooms.others.iter().filter(gone).map(|m| m.event).collect();
        let by_others = self.store.events(&events).await?.into_iter().filter(|e| e.pdu.sender() != turn.who.user_id);
        Ok(by_others.map(|e| e.nid).collect())
    }

    /// Writes the `rooms` of an answer, if there is anything in them.
    async fn write_rooms(&self, out: &mut String, turn: &Turn<'_>, rooms: &UserRooms, own: &OwnData) -> Result<bool> {
        let mut sections = section::Sections::default();
        // What writes a room is large; boxed, a sync that has none to write stays small.
        for (membership, hub) in rooms.joined.iter().filter(|(_, hub)| Self::has_news(turn, hub, own)) {
            Box::pin(self.joined_room(&mut sections, turn, membership, hub, own)).await?;
        }
        let removed = self.removed_from(turn, rooms).await?;
        for membership in &rooms.others {
            let is_news = membership.pos > turn.after();
            match membership.membership {
                MembershipState::Invite if is_news || turn.ask.full_state => {
                    Box::pin(self.invited_room(&mut sections, turn, membership, "invite_state")).await?;
                }
                MembershipState::Knock if is_news || turn.ask.full_state => {
                    Box::pin(self.invited_room(&mut sections, turn, membership, "knock_state")).await?;
                }
                MembershipState::Leave | MembershipState::Ban
                    // Whoever forgets a room has other devices, which have to learn that they are out of it.
                    if turn.since.is_some() && is_news
                        || turn.since.is_none()
                            && !membership.forgotten
                            && (turn.ask.filter.include_leave || removed.contains(&membership.event)) =>
                {
                    Box::pin(self.left_room(&mut sections, turn, membership, own)).await?;
                }
                _ => {}
            }
        }
        sections.write(out)
    }
}
