"""The servers: Hearth, Synapse and Dendrite, each from an empty folder, with certificates of one authority of the run.

A server's name is `127.0.0.n:PORT`. Behind that address stands a Front, which hands connections on to the server's own
TLS listener as they are, and can be shut: then the server is there, but nobody reaches it. Clients speak plain HTTP.
"""
import asyncio
import base64
import os
import pathlib
import re
import signal
import socket
import ssl
import subprocess
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parents[3]
PEERS_SH = ROOT / "tests" / "bench" / "peers.sh"
PEERS = pathlib.Path(os.environ.get("PEERS", "/opt/peers"))
SECRET = "registration-secret"
START_S = 180


def peers_sh(*args):
    done = subprocess.run([PEERS_SH, *map(str, args)], capture_output=True, text=True, timeout=600, stdin=subprocess.DEVNULL)
    if done.returncode:
        raise RuntimeError(f"peers.sh {' '.join(map(str, args))}: {done.stderr.strip() or done.returncode}")
    return done.stdout.strip()


def run(*command, cwd=None, env=None, given=None):
    """A short program; its output as bytes."""
    done = subprocess.run(list(map(str, command)), capture_output=True, timeout=120, cwd=cwd, env=env, input=given)
    if done.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))}: {done.stderr.decode(errors='replace').strip()}")
    return done.stdout


class Authority:
    """Signs the certificates of a run."""

    def __init__(self, folder):
        self.folder = folder
        self.certificate, self.key = folder / "ca.pem", folder / "ca.key"
        run("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2", "-subj", "/CN=peers",
            "-keyout", self.key, "-out", self.certificate, "-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=critical,keyCertSign")

    def certifies(self, folder, address):
        """-> (certificate, key) for a loopback address."""
        key, request, certificate, extension = (folder / name for name in ("tls.key", "tls.csr", "tls.pem", "tls.ext"))
        run("openssl", "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj", "/CN=peer", "-keyout", key, "-out", request)
        extension.write_text(f"subjectAltName=IP:{address}\nextendedKeyUsage=serverAuth,clientAuth\n", encoding="utf-8")
        run("openssl", "x509", "-req", "-in", request, "-CA", self.certificate, "-CAkey", self.key, "-CAcreateserial", "-days", "2",
            "-extfile", extension, "-out", certificate)
        return certificate, key

    def context(self):
        return ssl.create_default_context(cafile=str(self.certificate))


def free_port(address="127.0.0.1"):
    with socket.socket() as one:
        one.bind((address, 0))
        return one.getsockname()[1]


class Front:
    """What other servers dial. One loop in one thread serves all of them."""

    loop = None

    @classmethod
    def begin(cls):
        if cls.loop is None:
            cls.loop = asyncio.new_event_loop()
            threading.Thread(target=cls.loop.run_forever, daemon=True).start()

    def __init__(self, address, port, behind):
        self.begin()
        self.is_open, self.behind, self.writers = True, behind, set()
        ready = asyncio.run_coroutine_threadsafe(asyncio.start_server(self.accept, address, port), self.loop)
        self.server = ready.result(10)

    async def accept(self, reader, writer):
        if not self.is_open:
            writer.transport.abort()
            return
        try:
            inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", self.behind)
        except OSError:
            writer.transport.abort()
            return
        pair = {writer, inner_writer}
        self.writers |= pair
        await asyncio.gather(self.copy(reader, inner_writer), self.copy(inner_reader, writer))
        self.writers -= pair

    @staticmethod
    async def copy(reader, writer):
        try:
            while piece := await reader.read(65536):
                writer.write(piece)
                await writer.drain()
            writer.write_eof()
        except (OSError, RuntimeError):
            pass
        finally:
            writer.close()

    def set(self, is_open):
        async def now():
            self.is_open = is_open
            if not is_open:
                for writer in list(self.writers):
                    writer.transport.abort()

        asyncio.run_coroutine_threadsafe(now(), self.loop).result(10)


class Server:
    """One server of a run. The kinds below say how it is configured and started."""

    kind = "?"
    versions = ("6", "9", "10", "11", "12")
    starts = 1  # so often it is started again if it ends by itself
    keeps = float("inf")  # so many events, of all rooms, go out by themselves to a server that was away

    def __init__(self, authority, folder, number, database="sqlite"):
        self.authority, self.folder, self.database = authority, folder, database
        folder.mkdir()
        folder.chmod(0o755)
        self.address = f"127.0.0.{number}"
        self.port, self.tls_port, self.name_port = free_port(), free_port(), free_port(self.address)
        self.name = f"{self.address}:{self.name_port}"
        self.certificate, self.key = authority.certifies(folder, self.address)
        self.front = Front(self.address, self.name_port, self.tls_port)
        self.log = open(folder / "server.log", "ab")
        self.process, self.count, self.lock = None, 0, threading.Lock()
        self.configure()

    def configure(self):
        raise NotImplementedError

    def command(self):
        raise NotImplementedError

    def start(self):
        for _ in range(self.starts):
            if self.started():
                return
        raise RuntimeError(f"{self.kind} ended with {self.process.returncode}, see {self.log.name}")

    def started(self):
        """Whether it answers; not if it ended instead."""
        self.process = subprocess.Popen(list(map(str, self.command())), cwd=self.folder, stdout=self.log, stderr=self.log,
                                        stdin=subprocess.DEVNULL, start_new_session=True)
        end = time.monotonic() + START_S
        while time.monotonic() < end:
            if self.process.poll() is not None:
                return False
            with socket.socket() as one:
                one.settimeout(5)
                try:
                    one.connect(("127.0.0.1", self.port))
                    one.sendall(b"GET /_matrix/client/versions HTTP/1.0\r\nHost: localhost\r\n\r\n")
                    if b" 200 " in one.recv(64):
                        return True
                except OSError:
                    pass
            time.sleep(0.1)
        raise RuntimeError(f"{self.kind}: no answer within {START_S} s, see {self.log.name}")

    def kill(self):
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(30)

    def stop(self):
        if self.process is None or self.process.poll() is not None:
            return
        self.process.terminate()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.kill()

    def fresh(self, name):
        """A localpart that nobody has yet."""
        with self.lock:
            self.count += 1
            return f"{name}-{self.count}"


class Synapse(Server):
    kind = "Synapse"

    def program(self):
        return [PEERS / "synapse/bin/python", "-m", "synapse.app.homeserver"]

    def configure(self):
        peers_sh("config", self.folder, self.port, self.database, 4)
        file = self.folder / "homeserver.yaml"
        text = file.read_text(encoding="utf-8").replace('server_name: "hs.test"', f'server_name: "{self.name}"')
        text = text.replace("listeners:\n", f"""listeners:
  - port: {self.tls_port}
    bind_addresses: ["127.0.0.1"]
    tls: true
    type: http
    resources:
      - names: [client, federation, openid]
        compress: false
""")
        text = re.sub(r"^rc_joins_per_room:.*\n", "", text, flags=re.M)
        text += f"""rc_joins_per_room: {{ per_second: 100000, burst_count: 100000 }}
rc_federation: {{ window_size: 1000, sleep_limit: 100000, sleep_delay: 1, reject_limit: 100000, concurrent: 100 }}
tls_certificate_path: "{self.certificate}"
tls_private_key_path: "{self.key}"
federation_custom_ca_list: ["{self.authority.certificate}"]
ip_range_blacklist: []
federation_ip_range_blacklist: []
federation:
  client_timeout: 20s
  max_short_retry_delay: 1s
  max_long_retry_delay: 2s
  max_short_retries: 1
  max_long_retries: 1
  destination_min_retry_interval: 1s
  destination_max_retry_interval: 2s
  destination_retry_multiplier: 1
allow_public_rooms_over_federation: true
room_list_publication_rules: [{{ action: allow }}]
allow_device_name_lookup_over_federation: true
presence: {{ enabled: true }}
"""
        file.write_text(text, encoding="utf-8")
        if level := os.environ.get("PEER_LOG"):
            log = self.folder / "log.yaml"
            log.write_text(log.read_text(encoding="utf-8").replace("level: WARNING", f"level: {level}"), encoding="utf-8")

    def command(self):
        return [*self.program(), "-c", self.folder / "homeserver.yaml"]


class Hearth(Synapse):
    kind = "Hearth"
    binary = ROOT / "target" / "debug" / "hearth"

    def program(self):
        return [self.binary, "serve"]


class Dendrite(Server):
    kind = "Dendrite"
    starts = 3  # an event left in its queue by a kill may reach it before it is ready: nil (cmd/dendrite/main.go, SetFederationAPI)
    keeps = 128  # maxPDUsInMemory of federationapi/queue/destinationqueue.go; it forgets that there are more in its database

    def configure(self):
        def database(name):
            return f"{{ connection_string: 'file:{self.folder}/{name}.db' }}"

        seed = base64.b64encode(os.urandom(32)).decode().rstrip("=")
        (self.folder / "matrix_key.pem").write_text(
            f"-----BEGIN MATRIX PRIVATE KEY-----\nKey-ID: ed25519:peer\n\n{seed}=\n-----END MATRIX PRIVATE KEY-----\n", encoding="utf-8")
        parts = ["room_server", "key_server", "federation_api", "media_api", "sync_api", "mscs", "relay_api"]
        text = f"""version: 2
global:
  server_name: "{self.name}"
  private_key: {self.folder}/matrix_key.pem
  key_validity_period: 168h0m0s
  presence: {{ enable_inbound: true, enable_outbound: true }}
  jetstream: {{ storage_path: {self.folder}/jetstream }}
  cache: {{ max_size_estimated: 128mb, max_age: 1h }}
client_api: {{ registration_disabled: true, registration_shared_secret: "{SECRET}", rate_limiting: {{ enabled: false }} }}
user_api: {{ bcrypt_cost: 4, account_database: {database("accounts")}, device_database: {database("devices")} }}
logging: [{{ type: std, level: {os.environ.get("PEER_LOG", "warning").lower()} }}]
"""
        for part in parts:
            more = {"federation_api": "send_max_retries: 8, key_perspectives: [], deny_networks: [], ",
                    "media_api": f"base_path: {self.folder}/media, dynamic_thumbnails: true, ",
                    "mscs": "mscs: [], "}.get(part, "")
            text += f"{part}: {{ {more}database: {database(part)} }}\n"
        (self.folder / "dendrite.yaml").write_text(text, encoding="utf-8")

    def command(self):
        return ["env", f"SSL_CERT_FILE={self.authority.certificate}", PEERS / "dendrite/bin/dendrite", "-config", self.folder / "dendrite.yaml",
                "-http-bind-address", f"127.0.0.1:{self.port}", "-https-bind-address", f"127.0.0.1:{self.tls_port}",
                "-tls-cert", self.certificate, "-tls-key", self.key]


KINDS = {one.kind.lower(): one for one in (Hearth, Synapse, Dendrite)}
