//! What all talk with other servers goes through: whom we may speak to, who is left alone for a while because they could
//! not be reached ([`health`]), and the signed calls of [`hearth_remote`].

use std::{collections::HashSet, sync::Arc, time::Duration};

use bytes::Bytes;
use hearth_base::{Error, Result, clock::Clock, tasks::Supervisor};
use hearth_remote::{
    Failure,
    federation::{Federation as Remote, Paths, Patience},
    http::Chunks,
};
use hearth_rules::Signer;
use hearth_store::Store;
use ruma::{
    OwnedServerName, ServerName,
    api::{OutgoingRequest, auth_scheme::AuthScheme, federation::authentication::XMatrixSigningInput},
};

pub mod acl;
pub mod answers;
pub mod backfill;
pub mod budget;
pub mod completion;
pub mod edus;
pub mod gate;
pub mod health;
pub mod inbox;
pub mod joins;
mod order;
pub mod outbox;
pub mod outliers;
pub mod policy;
pub mod servers;
pub mod tester;
pub mod transactions;

use health::Health;

/// How we deal with other servers.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How they are called.
    pub remote: hearth_remote::Settings,
    /// Only these (`federation_domain_whitelist`); `None` is all.
    pub only: Option<Vec<OwnedServerName>>,
    /// Pauses for servers that cannot be reached.
    pub pauses: health::Settings,
    /// Longest wait for another server where a user waits (profiles, aliases, keys).
    pub patience: Duration,
    /// Others may read profiles (`allow_profile_lookup_over_federation`).
    pub profiles: bool,
    /// Others may read the names of devices (`allow_device_name_lookup_over_federation`).
    pub device_names: bool,
    /// Others may list published rooms (`allow_public_rooms_over_federation`).
    pub public_rooms: bool,
    /// How older history is fetched.
    pub backfill: backfill::Settings,
    /// How long servers are looked for that let a user into a room, or take a knock or a rejection; who is being asked then
    /// may still answer.
    pub searching: Duration,
    /// How the rest of a room's state is fetched.
    pub completion: completion::Settings,
    /// How events are tried again whose gaps could not be filled.
    pub held: inbox::held::Settings,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            remote: hearth_remote::Settings::default(),
            only: None,
            pauses: health::Settings::default(),
            patience: Duration::from_secs(10),
            profiles: true,
            device_names: false,
            public_rooms: false,
            backfill: backfill::Settings::default(),
            searching: Duration::from_secs(60),
            completion: completion::Settings::default(),
            held: inbox::held::Settings::default(),
        }
    }
}

/// Other servers.
#[derive(Debug)]
pub struct Federation {
    name: OwnedServerName,
    remote: Remote,
    health: Health,
    only: Option<HashSet<OwnedServerName>>,
    settings: Settings,
}

impl Federation {
    /// Made once. `signer` signs what we ask.
    ///
    /// # Errors
    /// If the resolver or the trusted authorities cannot be read.
    pub fn new(settings: Settings, signer: Arc<Signer>, store: Store, clock: Clock) -> Result<Self> {
        Ok(Self {
            name: signer.server_name().to_owned(),
            remote: Remote::new(settings.remote.clone(), signer, clock.clone())?,
            health: Health::new(store, clock, settings.pauses),
            only: settings.only.clone().map(|only| only.into_iter().collect()),
            settings,
        })
    }

    /// How we deal with other servers.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Our own name.
    #[must_use]
    pub fn name(&self) -> &ServerName {
        &self.name
    }

    /// Who is left alone for how long.
    #[must_use]
    pub fn health(&self) -> &Health {
        &self.health
    }

    /// The calls themselves, for whoever has decided otherwise whether to call.
    #[must_use]
    pub fn remote(&self) -> &Remote {
        &self.remote
    }

    /// Whether a server may speak to us, and we to it.
    #[must_use]
    pub fn admits(&self, server: &ServerName) -> bool {
        *server != self.name && self.only.as_ref().is_none_or(|only| only.contains(server))
    }

    /// For what a user waits for: quick tries within the settings' patience.
    #[must_use]
    pub fn short(&self) -> Patience {
        self.remote.short().within(self.settings.patience)
    }

    /// For what nobody waits for.
    #[must_use]
    pub fn long(&self) -> Patience {
        self.remote.long()
    }

    /// One try.
    #[must_use]
    pub fn once(&self) -> Patience {
        self.remote.once()
    }

    /// One try, and a second should the connection break: for those whose events we want to understand.
    #[must_use]
    pub fn twice(&self) -> Patience {
        self.remote.twice()
    }

    /// A signed request to a server that is not to be left alone.
    ///
    /// # Errors
    /// [`Failure::Forbidden`] for those we do not speak to, [`Failure::LeftAlone`]; whatever keeps a sensible answer
    /// from coming.
    pub async fn send<R>(&self, to: &ServerName, request: R, patience: Patience) -> Result<R::IncomingResponse, Failure>
    where
        R: OutgoingRequest,
        R::PathBuilder: Paths,
        for<'a> R::Authentication: AuthScheme<Input<'a> = XMatrixSigningInput<'a>>,
    {
        self.may_call(to).await?;
        self.send_now(to, request, patience).await
    }

    /// [`Self::send`] where a user asked for that very server: it is tried, whatever happened before, since it may be back.
    ///
    /// # Errors
    /// As [`Self::send`], but never [`Failure::LeftAlone`].
    pub async fn send_now<R>(
        &self,
        to: &ServerName,
        request: R,
        patience: Patience,
    ) -> Result<R::IncomingResponse, Failure>
    where
        R: OutgoingRequest,
        R::PathBuilder: Paths,
        for<'a> R::Authentication: AuthScheme<Input<'a> = XMatrixSigningInput<'a>>,
    {
        self.check_admitted(to)?;
        let ended = self.remote.send(to, request, patience).await;
        self.note(to, &ended).await;
        ended
    }

    /// The same for a request made already ([`Remote::signed`]), whose answer is read as it is.
    ///
    /// # Errors
    /// As [`Self::send`].
    pub async fn exchange(
        &self,
        to: &ServerName,
        request: http::Request<Bytes>,
        patience: Patience,
    ) -> Result<http::Response<Bytes>, Failure> {
        self.may_call(to).await?;
        self.exchange_now(to, request, patience).await
    }

    /// As [`Self::exchange`] is to [`Self::send`], this is to [`Self::send_now`].
    ///
    /// # Errors
    /// As [`Self::send_now`].
    pub async fn exchange_now(
        &self,
        to: &ServerName,
        request: http::Request<Bytes>,
        patience: Patience,
    ) -> Result<http::Response<Bytes>, Failure> {
        self.check_admitted(to)?;
        let ended = self.remote.exchange(to, request, patience).await;
        self.note(to, &ended).await;
        ended
    }

    /// The same where a refusal is an answer like any other, whatever its status: it says nothing of how the server fares.
    ///
    /// # Errors
    /// As [`Self::send`].
    pub async fn consult(
        &self,
        to: &ServerName,
        request: http::Request<Bytes>,
        patience: Patience,
    ) -> Result<http::Response<Bytes>, Failure> {
        self.may_call(to).await?;
        let ended = self.remote.exchange(to, request, patience).await;
        if !matches!(ended, Err(Failure::Refused(_))) {
            self.note(to, &ended).await;
        }
        ended
    }

    /// A request made already, whose answer is read piece by piece: given as soon as its headers are there, which is waited
    /// for that long.
    ///
    /// # Errors
    /// As [`Self::send`].
    pub async fn stream(
        &self,
        to: &ServerName,
        request: http::Request<Bytes>,
        wait: Duration,
    ) -> Result<http::Response<Chunks>, Failure> {
        self.may_call(to).await?;
        let ended = tokio::time::timeout(wait, self.remote.stream(to, request)).await;
        let ended = ended.unwrap_or(Err(Failure::TimedOut(wait)));
        self.note(to, &ended).await;
        ended
    }

    /// A request that needs no signature.
    ///
    /// # Errors
    /// As [`Self::send`].
    pub async fn ask<R>(&self, to: &ServerName, request: R, patience: Patience) -> Result<R::IncomingResponse, Failure>
    where
        R: OutgoingRequest,
        R::PathBuilder: Paths,
        for<'a> R::Authentication: AuthScheme<Input<'a> = ()>,
    {
        self.may_call(to).await?;
        let ended = self.remote.ask(to, request, patience).await;
        self.note(to, &ended).await;
        ended
    }

    /// [`Self::ask`] of a server that gave a sign of life just now, whatever happened before.
    ///
    /// # Errors
    /// As [`Self::send`], but never [`Failure::LeftAlone`].
    pub async fn ask_back<R>(
        &self,
        to: &ServerName,
        request: R,
        patience: Patience,
    ) -> Result<R::IncomingResponse, Failure>
    where
        R: OutgoingRequest,
        R::PathBuilder: Paths,
        for<'a> R::Authentication: AuthScheme<Input<'a> = ()>,
    {
        self.check_admitted(to)?;
        let ended = self.remote.ask(to, request, patience).await;
        self.note(to, &ended).await;
        ended
    }

    /// Servers that are to be left alone behind the others, else in their order.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn likeliest_first(&self, servers: &[OwnedServerName]) -> hearth_base::Result<Vec<OwnedServerName>> {
        let (mut first, mut last) = (Vec::with_capacity(servers.len()), Vec::new());
        for server in servers {
            let alone = self.health.left_alone_until(server).await?.is_some();
            if alone { &mut last } else { &mut first }.push(server.clone());
        }
        first.append(&mut last);
        Ok(first)
    }

    fn check_admitted(&self, to: &ServerName) -> Result<(), Failure> {
        if self.admits(to) {
            return Ok(());
        }
        Err(Failure::Forbidden(format!("this server does not speak to {to}")))
    }

    async fn may_call(&self, to: &ServerName) -> Result<(), Failure> {
        self.check_admitted(to)?;
        match self.health.left_alone_until(to).await.map_err(|e| Failure::Ours(e.to_string()))? {
            Some(until) => Err(Failure::LeftAlone(until)),
            None => Ok(()),
        }
    }

    /// Notes whether a server is there. The call itself has ended, so a database that fails now is only told.
    async fn note<T>(&self, to: &ServerName, ended: &Result<T, Failure>) {
        let noted = match ended {
            Err(failure) if failure.is_away() => self.health.failed(to).await,
            // Something answered, even if it refused; what we forbade says nothing.
            Err(Failure::Refused(_)) | Ok(_) => self.health.well(to).await,
            Err(_) => Ok(()),
        };
        if let Err(e) = noted {
            tracing::warn!(server = %to, error = %e, "how a server fares could not be noted");
        }
    }

    /// Notes a request of a server that proved who it is: it is there again.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn heard_from(&self, server: &ServerName) -> Result<()> {
        self.health.well(server).await
    }

    /// Whether a server can be reached as it should be, and what to change if not ([`tester`]).
    pub async fn examine(&self, server: &str, now_ms: u64) -> tester::Report {
        tester::examine(&self.remote, server, now_ms).await
    }

    /// What a user who waited for `server` is told.
    #[must_use]
    pub fn told(&self, server: &ServerName, failure: &Failure) -> Error {
        failure.told(server.as_str())
    }
}

/// Starts a task that is broken off when the server stops: all it does can be done again.
fn until_stopping<F, Fut>(supervisor: &Supervisor, name: &'static str, run: F)
where
    F: Fn() -> Fut + Send + 'static,
    Fut: Future<Output = Result<()>> + Send + 'static,
{
    let stopping = supervisor.stopping();
    supervisor.task(name, move || {
        let (stopping, running) = (stopping.clone(), run());
        async move {
            tokio::select! {
                () = stopping.cancelled() => Ok(()),
                ended = running => ended,
            }
        }
    });
}
