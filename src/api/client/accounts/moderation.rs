//! Locking and suspending accounts, by administrators (client-server API, "Account moderation").

use hearth_base::{Error, Result};
use hearth_service::accounts::Flag;
use ruma::{
    UserId,
    api::client::admin::{is_user_locked, is_user_suspended, lock_user, suspend_user},
};

use crate::{Cx, extract::Admin, routes::Routes};

/// Their routes.
#[must_use]
pub fn routes() -> Routes {
    Routes::new().on(is_locked).on(lock).on(is_suspended).on(suspend)
}

/// Only our own users can be moderated.
fn ours(cx: &Cx, user: &UserId) -> Result<()> {
    if cx.accounts.is_local(user) { Ok(()) } else { Err(Error::invalid_param("This user is not of this server")) }
}

/// Whether an account is locked.
async fn is_locked(cx: Cx, req: Admin<is_user_locked::v1::Request>) -> Result<is_user_locked::v1::Response> {
    ours(&cx, &req.body.user_id)?;
    let account = cx.accounts.inspect(&req.requester, &req.body.user_id).await?;
    Ok(is_user_locked::v1::Response::new(account.locked))
}

/// Locks or unlocks an account.
async fn lock(cx: Cx, req: Admin<lock_user::v1::Request>) -> Result<lock_user::v1::Response> {
    ours(&cx, &req.body.user_id)?;
    cx.accounts.set_flag(&req.requester, &req.body.user_id, Flag::Locked, req.body.locked).await?;
    Ok(lock_user::v1::Response::new(req.body.locked))
}

/// Whether an account is suspended.
async fn is_suspended(cx: Cx, req: Admin<is_user_suspended::v1::Request>) -> Result<is_user_suspended::v1::Response> {
    ours(&cx, &req.body.user_id)?;
    let account = cx.accounts.inspect(&req.requester, &req.body.user_id).await?;
    Ok(is_user_suspended::v1::Response::new(account.suspended))
}

/// Suspends an account, or ends its suspension.
async fn suspend(cx: Cx, req: Admin<suspend_user::v1::Request>) -> Result<suspend_user::v1::Response> {
    ours(&cx, &req.body.user_id)?;
    cx.accounts.set_flag(&req.requester, &req.body.user_id, Flag::Suspended, req.body.suspended).await?;
    Ok(suspend_user::v1::Response::new(req.body.suspended))
}
