"""What befalls servers: killed, stopped for a while, their door shut, or a door behind which nobody answers.

Two of three at most are away at a time. A calm life has no kills: then nothing may be forgotten that is kept in memory alone.
"""
import asyncio
import time

from asking import Line
from world import servers

CHANCE, LONGEST_STOP_S = 0.05, 6


class Front(servers.Front):
    """A front that can also take connections and say nothing."""

    hangs = False

    async def accept(self, reader, writer):
        if not self.hangs:
            await super().accept(reader, writer)
            return
        self.writers.add(writer)
        while self.hangs:
            await asyncio.sleep(0.1)
        writer.transport.abort()

    def hang(self, hangs):
        self.hangs = hangs
        if hangs:
            # Connections that are open fall silent for good.
            self.set(False)
            self.set(True)


servers.Front = Front


class Site:
    """A server with what befell it."""

    def __init__(self, server, findings):
        self.server, self.name, self.line = server, server.name, Line(server, findings)
        self.trouble, self.until, self.since, self.kills, self.troubled = None, 0, 0.0, [], False

    def begin(self, trouble, until):
        self.trouble, self.until, self.since, self.troubled = trouble, until, time.monotonic(), True
        if trouble == "kill":
            self.server.kill()
            self.kills.append(time.monotonic())
        elif trouble == "stop":
            self.server.pause(True)
        elif trouble == "shut":
            self.server.front.set(False)
        else:
            self.server.front.hang(True)

    def end(self):
        trouble, self.trouble = self.trouble, None
        if trouble == "kill":
            self.server.start()
            self.line.begin_anew()
        elif trouble == "stop":
            self.server.pause(False)
        elif trouble == "shut":
            self.server.front.set(True)
        elif trouble == "hang":
            self.server.front.hang(False)


class Troubles:
    def __init__(self, life, is_calm):
        self.life, self.is_calm = life, is_calm

    def step(self, step):
        away = [site for site in self.life.sites if site.trouble]
        for site in away:
            if site.until <= step:
                site.end()
        rng = self.life.rng
        if rng.random() > CHANCE:
            return
        site, trouble = rng.choice(self.life.sites), rng.choice(["kill", "kill", "shut", "hang", "stop"])
        steps = rng.choice({"kill": [0, 0, 5, 20, 50], "stop": [3, 8]}.get(trouble, [5, 20, 40, 60]))
        if site.trouble or len(away) > 1 or self.is_calm and trouble == "kill":
            return
        self.life.findings.note(f"{site.name}: {trouble} for {steps} steps")
        self.life.findings.count(trouble)
        site.begin(trouble, step + steps)

    def wake(self):
        """Ends a stop that holds up those who wait for the server."""
        for site in self.life.sites:
            if site.trouble == "stop" and time.monotonic() - site.since > LONGEST_STOP_S:
                site.end()

    def end(self):
        for site in self.life.sites:
            if site.trouble:
                site.end()
