//! The server itself, for administrators: whether it, or another one, can be reached as it should be.

use hearth_base::Result;
use hearth_service::federation::tester::Report;

use crate::{Cx, extract::Admin, respond::Json, routes::Routes};

/// Its routes.
#[must_use]
pub fn routes() -> Routes {
    Routes::new().on(test)
}

mod testing {
    //! `GET /_synapse/admin/v1/federation/test/{serverName}`, which is our own.
    use ruma::{
        api::{auth_scheme::AccessToken, request, response},
        metadata,
    };

    metadata! {
        method: GET,
        rate_limited: false,
        authentication: AccessToken,
        path: "/_synapse/admin/v1/federation/test/{server_name}",
    }

    /// Which server.
    #[request]
    pub struct Request {
        /// Its name; what is none is told in the report.
        #[ruma_api(path)]
        pub server_name: String,
    }

    /// The answer is made by the handler.
    #[response]
    #[derive(Default)]
    pub struct Response {}
}

async fn test(cx: Cx, req: Admin<testing::Request>) -> Result<Json<Report>> {
    Ok(Json(cx.federation.examine(&req.body.server_name, cx.clock.now_ms()).await))
}
