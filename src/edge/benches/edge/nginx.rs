//! nginx as the tutorial has it, to be measured beside the edge.

use std::process::{Child, Command};

/// nginx as the tutorial has it: TLS, HTTP/2, a proxy to a plain axum, a folder.
pub struct Nginx {
    master: Child,
    pub pids: Vec<u32>,
    pub port: u16,
    _folder: tempfile::TempDir,
}

impl Nginx {
    pub fn start(backend: u16, files: &std::path::Path) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name).display().to_string();
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        std::fs::write(path("cert.pem"), made.cert.pem()).unwrap();
        std::fs::write(path("key.pem"), made.signing_key.serialize_pem()).unwrap();
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let conf = format!(
            "user root; worker_processes 2; daemon off; pid {pid}; error_log stderr crit;
             events {{ worker_connections 1024; }}
             http {{ access_log off; sendfile on; tcp_nopush on; keepalive_requests 100000000;
               client_body_temp_path {tmp}; proxy_temp_path {tmp}; fastcgi_temp_path {tmp}; uwsgi_temp_path {tmp};
               scgi_temp_path {tmp};
               upstream app {{ server 127.0.0.1:{backend}; keepalive 64; keepalive_requests 100000000; }}
               server {{ listen 127.0.0.1:{port} ssl http2; ssl_certificate {cert}; ssl_certificate_key {key};
                 location /files/ {{ alias {files}/; }}
                 location / {{ proxy_pass http://app; proxy_http_version 1.1; proxy_set_header Connection \"\";
                   proxy_set_header Host $host; proxy_set_header X-Forwarded-For $remote_addr;
                   proxy_set_header X-Forwarded-Proto $scheme; }} }} }}",
            pid = path("pid"),
            tmp = path("tmp"),
            cert = path("cert.pem"),
            key = path("key.pem"),
            files = files.display(),
        );
        std::fs::write(path("nginx.conf"), conf).unwrap();
        let master = Command::new("nginx").args(["-c", &path("nginx.conf")]).spawn().unwrap();
        let children = format!("/proc/{0}/task/{0}/children", master.id());
        let pids = loop {
            let text = std::fs::read_to_string(&children).unwrap();
            let pids: Vec<u32> = text.split_whitespace().map(|pid| pid.parse().unwrap()).collect();
            if pids.len() == 2 && std::net::TcpStream::connect(("127.0.0.1", port)).is_ok() {
                break pids;
            }
            std::thread::yield_now();
        };
        Self { master, pids, port, _folder: folder }
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = Command::new("kill").arg(self.master.id().to_string()).status();
        let _ = self.master.wait();
    }
}
