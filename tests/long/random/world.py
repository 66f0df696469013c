"""The servers of a run: Hearth on one or several loopback addresses, and one PostgreSQL for all of them.

Everything lives below one folder, which goes away at the end with all that was started.
"""
import os
import pathlib
import shutil
import signal
import sys
import tempfile

sys.path.append(str(pathlib.Path(__file__).resolve().parents[1] / "peers"))
import servers  # noqa: E402  (what starts servers is shared with the walks)


class Hearth(servers.Hearth):
    """Gives up on others soon, tells its list of rooms to anybody, and keeps a sign-in open for long."""

    more = "allow_public_rooms_without_auth: true\nui_auth: { session_timeout: 10m }\n"

    def configure(self):
        super().configure()
        file = self.folder / "homeserver.yaml"
        text = file.read_text(encoding="utf-8").replace("client_timeout: 20s", "client_timeout: 5s")
        file.write_text(text + self.more, encoding="utf-8")

    def pause(self, is_paused):
        os.kill(self.process.pid, signal.SIGSTOP if is_paused else signal.SIGCONT)

    def complaints(self):
        """Lines of its log that should not be there."""
        text = (self.folder / "server.log").read_text(encoding="utf-8", errors="replace")
        return [line for line in text.splitlines() if " ERROR " in line or "panicked" in line]


class World:
    def __init__(self, binary, engine, keep=None):
        Hearth.binary = pathlib.Path(binary).resolve()
        self.engine, self.running, self.databases, self.keep = engine, [], 0, keep
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="hearth-random-", dir="/tmp"))
        self.folder.chmod(0o755)  # for the account that runs PostgreSQL
        self.cluster = self.folder / "postgres"

    def __enter__(self):
        try:
            self.authority = servers.Authority(self.folder)
            if self.engine == "postgres":
                self.cluster.mkdir()
                servers.peers_sh("pg-start", self.cluster)
                os.environ["PG_DIR"] = str(self.cluster)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        self.clear()
        if self.cluster.exists():
            servers.peers_sh("pg-stop", self.cluster)
        shutil.rmtree(self.folder, ignore_errors=True)

    def start(self, number, engine=None):
        """A server from an empty folder and database."""
        database, folder = "sqlite", self.folder / f"server-{self.databases}"
        if (engine or self.engine) == "postgres":
            database = f"hearth{self.databases}"
            servers.peers_sh("database", self.cluster, database)
        self.databases += 1
        server = Hearth(self.authority, folder, number, database)
        self.running.append(server)
        server.start()
        return server

    def clear(self):
        """Stops all servers, and forgets what they kept."""
        for server in self.running:
            if server.process and server.process.poll() is None:
                server.pause(False)
                server.stop()
            server.log.close()
            if self.keep:
                shutil.copy(server.folder / "server.log", self.keep / f"{server.folder.name}.log")
            shutil.rmtree(server.folder, ignore_errors=True)
        self.running.clear()
