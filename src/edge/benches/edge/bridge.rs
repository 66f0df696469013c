//! Way (a) of the gate: Pingora's HTTP and proxy phases, bridged in `request_filter`.

use axum::body::Body;
use pingora_core::{apps::HttpServerApp, upstreams::peer::HttpPeer};
use pingora_http::ResponseHeader;
use pingora_proxy::{HttpProxy, ProxyHttp, Session};

use super::{Acceptor, Arc, BodyExt, L4Stream, Request, Router, ServerApp, ServiceExt, ShutdownWatch, Stream};

pub struct Bridge {
    pub router: Router,
}

#[async_trait::async_trait]
impl ProxyHttp for Bridge {
    type CTX = ();

    fn new_ctx(&self) {}

    async fn upstream_peer(&self, _: &mut Session, (): &mut ()) -> pingora_core::Result<Box<HttpPeer>> {
        Err(pingora_core::Error::new_str("no upstream"))
    }

    async fn request_filter(&self, session: &mut Session, (): &mut ()) -> pingora_core::Result<bool> {
        session.as_downstream_mut().set_pipelining_enabled(true);
        let head = session.req_header();
        let mut request = Request::new(Body::empty());
        *request.method_mut() = head.method.clone();
        *request.uri_mut() = head.uri.clone();
        *request.headers_mut() = head.headers.clone();
        let mut answer = std::pin::pin!(self.router.clone().oneshot(request));
        let response = tokio::select! {
            biased;
            response = &mut answer => response,
            _ = session.as_downstream_mut().read_body_or_idle(true) => return Ok(true),
        };
        let (parts, mut body) = response.unwrap().into_parts();
        session.write_response_header(Box::new(ResponseHeader::from(parts)), false).await?;
        while let Some(frame) = body.frame().await {
            if let Ok(data) = frame.unwrap().into_data() {
                session.write_response_body(Some(data), false).await?;
            }
        }
        session.write_response_body(None, true).await?;
        Ok(true)
    }
}

pub struct BridgeApp {
    pub tls: Option<Acceptor>,
    pub proxy: Arc<HttpProxy<Bridge>>,
}

#[async_trait::async_trait]
impl ServerApp for BridgeApp {
    async fn process_new(self: &Arc<Self>, io: Stream, shutdown: &ShutdownWatch) -> Option<Stream> {
        let io: Stream = if let Some(tls) = &self.tls {
            let l4 = *io.into_any().downcast::<L4Stream>().unwrap();
            Box::new(tls.tls_handshake(l4).await.unwrap())
        } else {
            io
        };
        self.proxy.process_new(io, shutdown).await
    }

    async fn cleanup(&self) {
        self.proxy.http_cleanup().await;
    }
}
