#!/usr/bin/env python3
"""An agent over HTTP that needs Python 3.9 or newer and no package.

    OPSCORE_URL=http://127.0.0.1:8000 python3 examples/http-agent/agent.py
    OPSCORE_URL=http://127.0.0.1:8000 python3 examples/http-agent/agent.py --poll

Without --poll Ops-Core posts tasks to this process, signed when both sides have OPSCORE_PUSH_SECRET. With --poll the process asks for them, which
works behind any firewall. It runs until SIGINT or SIGTERM and finishes the tasks that it has. Replace work().

Environment: OPSCORE_URL (http://127.0.0.1:8000), OPSCORE_API_KEY (none), OPSCORE_PUSH_SECRET (none: signatures are not checked), AGENT_ID
(python-http-agent), AGENT_CAPABILITY (count-words), AGENT_PORT (a free one), AGENT_ENDPOINT (the URL under which Ops-Core reaches that port).
"""

import base64
import hashlib
import hmac
import http.server
import json
import os
import signal
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request

URL = os.environ.get("OPSCORE_URL", "http://127.0.0.1:8000")
KEY = os.environ.get("OPSCORE_API_KEY", "")
SECRETS = os.environ.get("OPSCORE_PUSH_SECRET", "").split()
AGENT = os.environ.get("AGENT_ID", "python-http-agent")
CAPABILITY = os.environ.get("AGENT_CAPABILITY", "count-words")
SLOTS = 4
REMEMBERED = 10_000  # deliveries known again

stopping = threading.Event()


class Cancelled(Exception):
    """The task was taken back."""


def work(task, progress):
    """Does a task and returns its output. progress(message, percent) renews its time and raises Cancelled when it was taken back."""
    text = str(task["input"].get("text", ""))
    progress("counting", 50)
    if text == "fail":
        raise ValueError("asked to fail")
    return {"words": len(text.split())}


def call(method, path, body=None, timeout=30.0):
    """Sends a request; returns the status and the body, and 0 if there was no answer."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(URL + "/api/v1/agents/" + urllib.parse.quote(AGENT, safe="") + path, data=data, method=method)
    request.add_header("Content-Type", "application/json")
    if KEY:
        request.add_header("Authorization", "Bearer " + KEY)
    try:
        with urllib.request.urlopen(request, timeout=timeout) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as err:
        return err.code, err.read()
    except OSError as err:
        return 0, str(err).encode()


def say(method, path, body):
    """Sends a report until it was taken or refused; repeating is always safe. Returns whether it was taken."""
    while True:
        status, answer = call(method, path, body)
        if 200 <= status < 300:
            return True
        if 400 <= status < 500 and status != 429:
            print("refused:", path, status, answer.decode(errors="replace"), file=sys.stderr)
            return False
        time.sleep(1)


class Tasks:
    """The attempts at work. An attempt that is handed over twice is done once."""

    def __init__(self):
        self.lock = threading.Lock()
        self.running = {}  # attempt: set when it is cancelled
        self.seen = {}  # attempts that were taken, oldest first
        self.threads = set()

    def take(self, task):
        """Returns the answer to Ops-Core, and begins to work unless the attempt is known."""
        attempt = (task["runId"], task["taskId"], task["attempt"])
        with self.lock:
            if attempt in self.seen:
                return {"status": "accepted"}
            if stopping.is_set() or len(self.running) >= SLOTS:
                return {"status": "rejected", "reason": "no free slot", "retryAfterMs": 500}
            self.seen[attempt] = True
            if len(self.seen) > REMEMBERED:
                del self.seen[next(iter(self.seen))]
            self.running[attempt] = threading.Event()
            thread = threading.Thread(target=self.do, args=(attempt, task))
            self.threads.add(thread)
        thread.start()
        return {"status": "accepted"}

    def cancel(self, data):
        attempt = (data["runId"], data["taskId"], data["attempt"])
        with self.lock:
            if attempt in self.running:
                self.running[attempt].set()
                return {"status": "cancelled"}
            return {"status": "finished" if attempt in self.seen else "unknown"}

    def do(self, attempt, task):
        cancelled = self.running[attempt]
        ref = {name: task[name] for name in ("runId", "taskId", "attempt", "token")}

        def progress(message, percent=None):
            report = dict(ref, message=message)
            if percent is not None:
                report["percent"] = percent
            if cancelled.is_set() or not say("POST", "/progress", report):
                raise Cancelled

        try:
            say("POST", "/result", dict(ref, status="completed", output=work(task, progress)))
        except Cancelled:
            print("taken back:", *attempt, file=sys.stderr)
        except Exception as err:  # whatever went wrong, Ops-Core decides what follows
            say("POST", "/result", dict(ref, status="failed", error={"code": type(err).__name__, "message": str(err)[:1000]}))
        finally:
            with self.lock:
                del self.running[attempt]
                self.threads.discard(threading.current_thread())

    def wait(self):
        """Waits until nothing is at work."""
        while True:
            with self.lock:
                thread = next(iter(self.threads), None)
            if thread is None:
                return
            thread.join()


def is_signed(headers, body):
    """Checks a request by Standard Webhooks: one of the signatures is by one of our secrets, and it is not old."""
    if not SECRETS:
        return True
    stamp = headers.get("webhook-timestamp", "")
    if not stamp.isdigit() or abs(time.time() - int(stamp)) > 300:
        return False
    signed = (headers.get("webhook-id", "") + "." + stamp + ".").encode() + body
    shown = [s[3:] for s in headers.get("webhook-signature", "").split() if s.startswith("v1,")]
    for secret in SECRETS:
        secret = base64.b64decode(secret[len("whsec_"):])
        want = base64.b64encode(hmac.new(secret, signed, hashlib.sha256).digest()).decode()
        if any(hmac.compare_digest(want, s) for s in shown):
            return True
    return False


def serve(tasks):
    """Takes tasks that Ops-Core posts, until the program is told to stop."""

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if not is_signed(self.headers, body):
                return self.answer(401, {"error": "not signed by a secret of mine"})
            message = json.loads(body)
            if message["type"] == "task":
                return self.answer(200, tasks.take(message["data"]))
            if message["type"] == "cancel":
                return self.answer(200, tasks.cancel(message["data"]))
            return self.answer(404, {"error": "unknown type"})

        def answer(self, status, body):
            data = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("", int(os.environ.get("AGENT_PORT", "0"))), Handler)
    server.daemon_threads = True
    endpoint = os.environ.get("AGENT_ENDPOINT", "http://127.0.0.1:%d/" % server.server_address[1])
    listener = threading.Thread(target=server.serve_forever, daemon=True)
    listener.start()
    if not register("http", endpoint) or not say("POST", "/state", {"state": "idle"}):
        return 1
    print("serves", CAPABILITY, "at", endpoint, file=sys.stderr, flush=True)
    stopping.wait()
    say("POST", "/state", {"state": "draining"})
    tasks.wait()
    server.shutdown()
    return 0


def poll(tasks):
    """Asks for tasks until the program is told to stop."""
    if not register("poll"):
        return 1
    print("asks for", CAPABILITY, file=sys.stderr, flush=True)
    while not stopping.is_set():
        # A short wait, so that a stop is noticed soon. To ask is a sign of life: no state needs to be reported.
        status, body = call("GET", "/tasks?wait=5", timeout=20)
        if status == 200:
            tasks.take(json.loads(body))
            tasks.wait()
        elif 400 <= status < 500 and status != 429:
            print("refused:", status, body.decode(errors="replace"), file=sys.stderr)
            return 1
        elif status != 204:
            stopping.wait(1)
    return 0


def register(delivery, endpoint=None):
    registration = {
        "agentName": "Python over HTTP", "version": "1.0", "capabilities": [CAPABILITY], "slots": 1 if delivery == "poll" else SLOTS, "delivery": delivery,
    }
    if endpoint:
        registration["contactEndpoint"] = endpoint
    return say("PUT", "", registration)


def main():
    if sys.argv[1:] not in ([], ["--poll"]):
        print("usage: agent.py [--poll]    (see the top of this file)", file=sys.stderr)
        return 2
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopping.set())
    status = (poll if sys.argv[1:] else serve)(Tasks())
    if status == 0:
        say("POST", "/state", {"state": "offline"})
    return status


if __name__ == "__main__":
    sys.exit(main())
