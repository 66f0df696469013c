"""Accounts of one server, with a device that acts (`token`) and one that only looks at everything anew (`fresh`)."""
import hashlib
import hmac

from asking import CLIENT
from world import servers


class User:
    def __init__(self, line, name):
        self.line, self.name, self.id = line, name, f"@{name}:{line.server.name}"
        self.tokens, self.ignored = {}, set()
        # Whom they ever ignored: what was left out meanwhile is not shown again.
        self.ever_ignored = set()
        self.register()
        self.token = self.login("acts")

    def register(self):
        at = "/_synapse/admin/v1/register"
        nonce = self.line.ask("GET", at)[1]["nonce"]
        mac = hmac.new(servers.SECRET.encode(), "\0".join([nonce, self.name, "password", "notadmin"]).encode(), hashlib.sha1).hexdigest()
        status, answer = self.line.ask("POST", at, {"nonce": nonce, "username": self.name, "password": "password", "admin": False, "mac": mac})
        if status != 200:
            raise RuntimeError(f"register {self.name}: {status} {answer}")

    @property
    def proof(self):
        return {"type": "m.login.password", "identifier": {"type": "m.id.user", "user": self.name}, "password": "password"}

    def login(self, device):
        status, answer = self.line.ask("POST", CLIENT + "/login", {**self.proof, "device_id": device})
        if status != 200:
            raise RuntimeError(f"login {self.name}: {status} {answer}")
        self.tokens[device] = answer["access_token"]
        return answer["access_token"]

    def ask(self, method, path, body=None, **query):
        return self.line.ask(method, path if path.startswith("/_") else CLIENT + path, body, self.token, **query)

    def keys_of(self, users):
        """{user: their keys} as this user's server tells them."""
        status, answer = self.ask("POST", "/keys/query", {"device_keys": {user: [] for user in users}})
        if status != 200:
            self.line.findings.report("/keys/query", status=status, answer=answer)
            return {}
        parts = ("device_keys", "master_keys", "self_signing_keys")
        return {user: [answer.get(part, {}).get(user) for part in parts] for user in users}
