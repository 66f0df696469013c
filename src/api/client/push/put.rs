//! `PUT /pushrules/global/{kind}/{ruleId}`. Ruma's type has room and user ids for the rule ids of two kinds, where the
//! specification has any string.

use hearth_base::{Error, Result};
use hearth_rules::push::NewRule;
use ruma::{
    api::{auth_scheme::AccessToken, request, response},
    metadata,
    push::{Action, NewConditionalPushRule, NewPatternedPushRule, NewSimplePushRule, PushCondition},
};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Map, Value};

metadata! {
    method: PUT,
    rate_limited: true,
    authentication: AccessToken,
    history: {
        1.0 => "/_matrix/client/r0/pushrules/global/{kind}/{rule_id}",
        1.1 => "/_matrix/client/v3/pushrules/global/{kind}/{rule_id}",
    }
}

/// A rule, and where it is to stand among those of its kind.
#[request]
pub struct Request {
    /// Its kind.
    #[ruma_api(path)]
    pub kind: String,
    /// Its id.
    #[ruma_api(path)]
    pub rule_id: String,
    /// The rule it comes straight before.
    #[ruma_api(query)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub before: Option<String>,
    /// The rule it comes straight after.
    #[ruma_api(query)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
    /// What its kind asks for.
    #[ruma_api(body)]
    pub fields: Map<String, Value>,
}

/// Done.
#[response]
#[derive(Default)]
pub struct Response {}

#[derive(Deserialize)]
struct Conditional {
    conditions: Vec<PushCondition>,
    actions: Vec<Action>,
}

#[derive(Deserialize)]
struct Patterned {
    pattern: String,
    actions: Vec<Action>,
}

#[derive(Deserialize)]
struct Simple {
    actions: Vec<Action>,
}

/// The rule; 400 for a kind that is none, and if what the kind asks for lacks or is something else.
pub(super) fn rule(kind: &str, id: String, fields: Map<String, Value>) -> Result<NewRule> {
    let conditional = |id, Conditional { conditions, actions }| NewConditionalPushRule::new(id, conditions, actions);
    let simple = |id, Simple { actions }| NewSimplePushRule::new(id, actions);
    Ok(match kind {
        "override" => NewRule::Override(conditional(id, read(fields)?)),
        "underride" => NewRule::Underride(conditional(id, read(fields)?)),
        "room" => NewRule::Room(simple(id, read(fields)?)),
        "sender" => NewRule::Sender(simple(id, read(fields)?)),
        "content" => {
            let Patterned { pattern, actions } = read(fields)?;
            NewRule::Content(NewPatternedPushRule::new(id, pattern, actions))
        }
        _ => return Err(Error::invalid_param("There is no such kind of push rule")),
    })
}

fn read<T: DeserializeOwned>(fields: Map<String, Value>) -> Result<T> {
    serde_json::from_value(Value::Object(fields)).map_err(|e| Error::bad_json(e.to_string()))
}
