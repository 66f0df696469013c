"""Requests to one server: a connection for each thread, made anew when the server was started again.

An answer of 500 and above is always a finding, but where a request may end at another server that is away (`remote`).
"""
import http.client
import json
import threading
import time
import urllib.parse

ANSWER_S, BACK_S = 60, 60
# Bytes of an answer that are kept, where anything is.
KEPT = 4000
CLIENT, V1 = "/_matrix/client/v3", "/_matrix/client/v1"
# What a request fails with while the server is away.
GONE = (http.client.HTTPException, OSError)


def quoted(text):
    return urllib.parse.quote(text, safe="")


class Line:
    def __init__(self, server, findings):
        self.server, self.findings = server, findings
        self.own, self.generation = threading.local(), 0

    def begin_anew(self):
        self.generation += 1

    def connection(self):
        if getattr(self.own, "connection", None) is None or self.own.generation != self.generation:
            self.own.connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=ANSWER_S)
            self.own.generation = self.generation
        return self.own.connection

    def raw(self, method, path, data=None, headers=None):
        """-> (status, headers, bytes)."""
        connection = self.connection()
        try:
            connection.request(method, path, data, headers or {})
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read()
        except GONE:
            connection.close()
            self.own.connection = None
            raise

    def ask(self, method, path, body=None, token=None, remote=False, **query):
        """-> (status, JSON)."""
        if query:
            path += ("&" if "?" in path else "?") + urllib.parse.urlencode({key: value for key, value in query.items() if value is not None})
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        data = None
        if body is not None:
            data, headers["Content-Type"] = json.dumps(body).encode(), "application/json"
        begun, outcome = time.monotonic(), ()
        try:
            status, _, text = self.raw(method, path, data, headers)
            outcome = status, text[:KEPT]
        except GONE as error:
            outcome = (error,)
            raise
        finally:
            self.findings.keep("", self.server.name, method, path, round(time.monotonic() - begun, 1), "s:", *outcome)
        self.findings.count("requests")
        if status == 500 or status > 500 and not remote:
            self.findings.report("5xx", request=f"{method} {path}", body=body, status=status, answer=text[:300].decode(errors="replace"))
        try:
            return status, json.loads(text or b"{}")
        except ValueError:
            self.findings.report("not JSON", request=f"{method} {path}", status=status, answer=text[:300].decode(errors="replace"))
            return status, {}

    def ask_until(self, *args, **query):
        """The same, again and again while the server is away."""
        end = time.monotonic() + BACK_S
        while True:
            try:
                return self.ask(*args, **query)
            except GONE:
                if time.monotonic() > end:
                    raise
                time.sleep(0.1)
