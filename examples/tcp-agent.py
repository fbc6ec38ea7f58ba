#!/usr/bin/env python3
"""An agent with nothing but Python's standard library: NATS' text protocol over a plain TCP socket.

It shows how little the wire asks for. Real Python agents had better use the nats-py package; the subjects and bodies stay
the same. docs/wire.md describes them.

    python3 examples/tcp-agent.py                  serve tasks of capability count-words until SIGINT or SIGTERM
    python3 examples/tcp-agent.py --once           serve one task, then say goodbye
    python3 examples/tcp-agent.py --self-test      start a run, serve its task, and exit 0 if the run completed

The server is named by --nats or NATS_URL, default nats://127.0.0.1:4222. TLS is not spoken here.
"""

import argparse
import collections
import json
import os
import signal
import socket
import sys
import threading
import time
import urllib.parse
import uuid

RETRY = 0.5  # seconds between two tries of a connection or a publish
ACK_WAIT = 3.0  # seconds to wait for an acknowledgement before publishing again
HEARTBEAT = 10.0
REMEMBERED = 1000  # attempts known by their result, should the same one be asked for again


# The work. Everything below is about how the task gets here and the result back.


class Failure(Exception):
    """A failure with a code for machines; retryable=False when no other attempt can repair it."""

    def __init__(self, code, message, retryable=True):
        super().__init__(message)
        self.code, self.retryable = code, retryable


def work(task, cancelled, progress):
    """Does one task: takes its input, returns its output. cancelled is a threading.Event to look at now and then."""
    texts = task["input"].get("texts")
    if not isinstance(texts, list):
        raise Failure("no_texts", "the input has no texts", retryable=False)
    words, said = [], time.monotonic()
    for i, text in enumerate(texts):
        if cancelled.is_set():
            raise Failure("cancelled", "told to stop")
        words.append(len(str(text).split()))
        if time.monotonic() - said > 5:  # progress renews the time that a long task has; not for every item
            said = time.monotonic()
            progress(f"{i + 1} texts counted", 100 * (i + 1) / len(texts))
    return {"words": words, "total": sum(words)}


# NATS.


class NATS:
    """A connection that comes back by itself. Messages are handled on the reading thread, so handlers must not block."""

    def __init__(self, url, name):
        u = urllib.parse.urlsplit(url if "//" in url else "nats://" + url)
        if u.scheme != "nats":
            raise SystemExit(f"tcp-agent: {u.scheme}:// is not spoken here, only nats://")
        self.addr = (u.hostname or "127.0.0.1", u.port or 4222)
        self.hello = {"verbose": False, "pedantic": False, "headers": True, "no_responders": True,
                      "lang": "python-stdlib", "version": "1", "name": name}
        if u.username and u.password is None:
            self.hello["auth_token"] = urllib.parse.unquote(u.username)
        elif u.username:
            self.hello |= {"user": urllib.parse.unquote(u.username), "pass": urllib.parse.unquote(u.password)}
        self.on_connect = lambda: None  # called on a thread of its own after every connect
        self.max_payload = 1 << 20
        self.up = threading.Event()
        self._subs = {}  # sid: (subject, handler)
        self._waiting = {}  # inbox subject: [event, message]
        self._lock = threading.Lock()  # of the socket's writing side
        self._sock = None
        self._closed = False
        self._inbox = f"_INBOX.{uuid.uuid4().hex}"
        self.subscribe(self._inbox + ".*", self._answered)

    def subscribe(self, subject, handler):
        """Calls handler(subject, reply, headers, body) for each message. Subscriptions survive reconnects."""
        sid = str(len(self._subs) + 1)
        self._subs[sid] = (subject, handler)
        if self.up.is_set():
            self._send(f"SUB {subject} {sid}\r\n".encode())

    def start(self):
        threading.Thread(target=self._run, daemon=True).start()

    def close(self):
        self._closed = True
        if self._sock:
            try:
                self._sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def publish(self, subject, body=b"", headers=None, reply=""):
        """Core NATS: sent once, to whoever listens now. Raises OSError without a connection."""
        if headers:
            block = b"NATS/1.0\r\n" + b"".join(f"{k}: {v}\r\n".encode() for k, v in headers.items()) + b"\r\n"
            head = f"HPUB {subject} {reply} {len(block)} {len(block) + len(body)}\r\n"
            self._send(head.encode() + block + body + b"\r\n")
        else:
            self._send(f"PUB {subject} {reply} {len(body)}\r\n".encode() + body + b"\r\n")

    def store(self, subject, body, headers=None):
        """JetStream: publishes until a stream has acknowledged, and returns the acknowledgement. Blocks."""
        while not self._closed:
            if not self.up.wait(ACK_WAIT):
                continue
            inbox, slot = self.expect()
            try:
                self.publish(subject, body, headers, reply=inbox)
                if slot[0].wait(ACK_WAIT):
                    got, answer = slot[1]
                    if got.get("Status") == "503":
                        log("no stream listens yet", subject=subject)
                    else:
                        ack = json.loads(answer)
                        if "error" not in ack:
                            return ack
                        log("the stream refuses", subject=subject, error=ack["error"])
            except OSError:
                pass  # the connection broke: again, repeating is safe
            finally:
                self._waiting.pop(inbox, None)
            time.sleep(RETRY)
        raise OSError("closed")

    def expect(self):
        """Returns a fresh inbox, and where its one message will stand: (event, message)."""
        inbox, slot = f"{self._inbox}.{uuid.uuid4().hex}", [threading.Event(), None]
        self._waiting[inbox] = slot
        return inbox, slot

    def _answered(self, subject, reply, headers, body):
        slot = self._waiting.pop(subject, None)
        if slot:
            slot[1] = (headers, body)
            slot[0].set()

    def _send(self, data):
        with self._lock:
            if not self._sock:
                raise OSError("not connected")
            self._sock.sendall(data)

    def _run(self):
        complained = False
        while not self._closed:
            try:
                with socket.create_connection(self.addr, timeout=5) as s:
                    self._connect(s)
                    complained = False
                    threading.Thread(target=self.on_connect, daemon=True).start()
                    s.settimeout(None)
                    while self._read():
                        pass
            except (OSError, ValueError, RuntimeError) as e:
                if not complained and not self._closed:
                    complained = True
                    log("no connection, trying again", server="%s:%d" % self.addr, err=str(e))
            self.up.clear()
            with self._lock:
                self._sock = None
            time.sleep(RETRY)

    def _connect(self, s):
        s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._in = s.makefile("rb")
        verb, _, info = self._in.readline().partition(b" ")
        if verb != b"INFO":
            raise RuntimeError("the server does not speak NATS")
        info = json.loads(info)
        if info.get("tls_required"):
            raise RuntimeError("the server wants TLS, which this example does not speak")
        self.max_payload = info["max_payload"]
        subs = "".join(f"SUB {subject} {sid}\r\n" for sid, (subject, _) in self._subs.items())
        s.sendall(f"CONNECT {json.dumps(self.hello)}\r\n{subs}PING\r\n".encode())
        with self._lock:
            self._sock = s
        while not self.up.is_set():  # until the PONG, which comes after everything above was taken
            if not self._read():
                raise RuntimeError("the server closed the connection")

    def _read(self):
        """Reads one protocol message; false when the connection has ended."""
        line = self._in.readline()
        verb, _, rest = line.strip().partition(b" ")
        if verb in (b"MSG", b"HMSG"):
            self._message(verb == b"HMSG", rest.decode().split())
        elif verb == b"PING":
            self._send(b"PONG\r\n")
        elif verb == b"PONG":
            self.up.set()
        elif verb == b"-ERR":
            log("the server says", error=rest.decode())
        return bool(line)

    def _message(self, has_headers, words):
        # subject sid [reply] [length of headers] length
        size, head = int(words[-1]), int(words[-2]) if has_headers else 0
        reply = words[2] if len(words) == (5 if has_headers else 4) else ""
        data = self._in.read(size + 2)[:-2]
        headers = {}
        first, *lines = data[:head].decode().split("\r\n")
        if first[9:]:
            headers["Status"] = first[9:].split(" ")[0]  # "NATS/1.0 503": nobody listens
        for line in filter(None, lines):
            k, _, v = line.partition(":")
            headers[k] = v.strip()
        if words[1] in self._subs:
            self._subs[words[1]][1](words[0], reply, headers, data[head:])


def token(agent_id):
    """The id as the last token of a subject."""
    plain = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-"
    if 0 < len(agent_id) <= 128 and all(c in plain for c in agent_id):
        return agent_id
    return "=" + "".join(chr(b) if chr(b) in plain else f"={b:02X}" for b in agent_id.encode())


# The agent.


class Agent:
    def __init__(self, nats, agent_id, capabilities, slots):
        self.nats, self.id, self.token, self.slots = nats, agent_id, token(agent_id), slots
        self.capabilities = capabilities
        self.instance = f"{socket.gethostname()}/{os.getpid()}/{uuid.uuid4().hex[:8]}"
        self.ready = threading.Event()  # registered, and that is committed
        self.refused = None  # why not, for good
        self.done = threading.Semaphore(0)  # released with every result that was stored
        self.draining = False
        self.running = {}  # (run, task, attempt): event that cancels it
        self.results = collections.OrderedDict()  # (run, task, attempt): body of the result, None if it was cancelled
        self.telling = set()  # attempts whose result is not acknowledged yet
        self.lock = threading.Lock()
        nats.subscribe(f"opscore.v1.task.{self.token}", self.on_task)
        nats.subscribe(f"opscore.v1.cancel.{self.token}", self.on_cancel)
        nats.on_connect = self.introduce

    def say(self, verb, body, headers=None):
        return self.nats.store(f"opscore.v1.agent.{verb}.{self.token}", encode(body), headers)

    def introduce(self):
        """Registers, and says idle. Registering the same instance again changes nothing, so it is done on every connect."""
        inbox, outcome = self.nats.expect()
        self.say("register", {
            "agentName": "TCP agent", "version": "1.0", "capabilities": self.capabilities, "slots": self.slots,
            "heartbeatSeconds": HEARTBEAT, "instance": self.instance,
        }, {"Opscore-Reply": inbox})  # stored now; the inbox hears when it is committed, or why it is refused
        if outcome[0].wait(10):
            answer = json.loads(outcome[1][1])
            if not answer["ok"]:
                self.refused = answer["error"]
        if not self.draining:
            self.say("state", {"state": "idle", "instance": self.instance})
        self.ready.set()

    def on_task(self, _, reply, headers, body):
        task = json.loads(body)
        if task.get("instance", self.instance) != self.instance:
            return  # meant for another process of this agent
        key = (task["runId"], task["taskId"], task["attempt"])
        again = None
        with self.lock:
            if key in self.running or self.results.get(key):  # asked twice: an answer was lost
                answer, again = {"status": "accepted"}, self.results.get(key)
            elif key in self.results:
                answer = {"status": "rejected", "reason": "the attempt was cancelled"}
            elif self.draining:
                answer = {"status": "rejected", "reason": "draining", "retryAfterMs": 60000}
            elif len(self.running) >= self.slots:
                answer = {"status": "rejected", "reason": "no free slot", "retryAfterMs": 500}
            else:
                answer, self.running[key] = {"status": "accepted"}, threading.Event()
                threading.Thread(target=self.perform, args=(key, task), daemon=True).start()
        self.nats.publish(reply, encode(answer))
        if again:
            threading.Thread(target=self.say, args=("result", again), daemon=True).start()

    def on_cancel(self, _, reply, headers, body):
        c = json.loads(body)
        key = (c["runId"], c["taskId"], c["attempt"])
        with self.lock:
            status = "finished" if key in self.results else "cancelled" if key in self.running else "unknown"
            if key in self.running:
                self.running[key].set()
        self.nats.publish(reply, encode({"status": status}))

    def perform(self, key, task):
        same = {k: task[k] for k in ("runId", "taskId", "attempt", "token") if k in task} | {"instance": self.instance}

        def progress(message, percent):
            self.say("progress", same | {"message": message, "percent": percent})

        try:
            result = same | {"status": "completed", "output": work(task, self.running[key], progress)}
            if len(encode(result)) > self.nats.max_payload - 65536:
                raise Failure("too_large", "the output does not fit into a message", retryable=False)
        except Exception as e:  # whatever it is, the task has ended
            error = {"code": getattr(e, "code", "failed"), "message": (str(e) or type(e).__name__)[:1000]}
            if not getattr(e, "retryable", True):
                error["retryable"] = False
            result = same | {"status": "failed", "error": error}
        with self.lock:
            if self.running.pop(key).is_set():
                result = None  # nobody waits for it any more
            else:
                self.telling.add(key)
            self.results[key] = result
            if len(self.results) > REMEMBERED:
                self.results.popitem(last=False)
        if not result:
            log("cancelled", run_id=key[0], task_id=key[1], attempt=key[2])
            return
        self.say("result", result)  # until it is acknowledged, through reconnects; then Ops-Core knows that the slot is free
        self.telling.discard(key)
        log("result stored", run_id=key[0], task_id=key[1], attempt=key[2], status=result["status"])
        self.done.release()

    def stop(self):
        """Takes no more tasks, finishes those it has until their results are acknowledged, and says goodbye."""
        with self.lock:
            self.draining = True
        self.say("state", {"state": "draining", "instance": self.instance})
        while self.running or self.telling:
            time.sleep(0.05)
        self.say("state", {"state": "offline", "instance": self.instance})


def encode(body):
    return json.dumps(body, separators=(",", ":"), ensure_ascii=False).encode()


def log(msg, **attrs):
    print(json.dumps({"msg": msg} | attrs), file=sys.stderr, flush=True)


def self_test(nats, agent):
    """Plays the client as well: applies a workflow, starts a run of it for this agent, and waits for the run's last fact."""
    run, ended, last = str(uuid.uuid4()), threading.Event(), {}

    def on_fact(_, reply, headers, body):
        shown = json.loads(body)["run"]
        if shown["state"] in ("completed", "failed", "cancelled"):
            last.update(shown)
            ended.set()

    nats.subscribe(f"opscore.v1.fact.run.{run}", on_fact)
    workflow = "tcp-agent-self-test"
    for kind, key, body in [
        ("workflow-apply", workflow, {"id": workflow, "tasks": [
            {"taskId": "count", "agentId": agent.id, "parameters": {"texts": ["to be or", "not to be", "grün ist grün"]}}]}),
        ("run-start", run, {"workflowId": workflow}),
    ]:
        nats.store(f"opscore.v1.command.{kind}.{key}", encode(body))
    if not ended.wait(20):
        log("the run did not end within 20 s", run_id=run)
        return False
    print(json.dumps(last))
    return last["state"] == "completed" and last["tasks"][0]["output"] == {"words": [3, 3, 3], "total": 9}


def main():
    p = argparse.ArgumentParser(description="An agent over plain TCP.")
    p.add_argument("--nats", default=os.environ.get("NATS_URL") or "nats://127.0.0.1:4222", metavar="URL")
    p.add_argument("--id", default="tcp-agent")
    p.add_argument("--capability", action="append", help="what the agent can do; may be repeated (default: count-words)")
    p.add_argument("--slots", type=int, default=4, help="tasks at the same time (default: 4)")
    p.add_argument("--once", action="store_true", help="serve one task, then stop")
    p.add_argument("--self-test", action="store_true", help="start a run, serve it, and exit 0 if it completed")
    o = p.parse_args()

    stop = threading.Event()
    for s in (signal.SIGINT, signal.SIGTERM):
        signal.signal(s, lambda *_: stop.set())
    nats = NATS(o.nats, o.id)
    agent = Agent(nats, o.id, o.capability or ["count-words"], o.slots)
    nats.start()
    while not agent.ready.wait(0.1):
        if stop.is_set():
            return 1
    if agent.refused:
        log("registration refused", error=agent.refused)
        return 1
    log("ready", agent=o.id, instance=agent.instance)

    ok, beat = True, 0.0
    if o.self_test:
        ok = self_test(nats, agent)
        stop.set()
    while not stop.is_set():
        if time.monotonic() - beat >= HEARTBEAT:
            beat = time.monotonic()
            try:
                nats.publish(f"opscore.v1.heartbeat.{agent.token}", encode({"instance": agent.instance}))
            except OSError:
                pass  # the next one
        if o.once and agent.done.acquire(blocking=False):
            break
        stop.wait(0.1)
    agent.stop()
    nats.close()
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
