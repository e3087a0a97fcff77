"""Events: what another program reads while a sweep runs; and the message at its end."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from scaling.errors import UserError
from sweeps.attempt.job import Trouble
from sweeps.driver.driver import Driver
from sweeps.driver.sweep import Report
from sweeps.ledger.ledger import Ledger
from sweeps.show.events import Events, call_webhook, check_webhook
from tests.sweeps.simulation import Clock, SimulatedPool, entry, failed, finished, other_owner


def report(ledger) -> Report:
    return Report(
        runs=ledger.runs(),
        stopped_by="",
        interrupted=False,
        capped=None,
        waiting_records=0,
        tracking_trouble=None,
        wall_s=12.0,
    )


@pytest.fixture
def swept(tmp_path, monkeypatch):
    """A simulated sweep of two runs, one of which fails once, with its events."""
    monkeypatch.setattr("sweeps.ledger.file.SYNCHRONOUS", "OFF")
    clock = Clock()
    entries = [entry("a", 100.0), entry("b", 50.0)]
    with Ledger(tmp_path / "ledger", now=clock, uptime=clock, owner=other_owner("me")) as ledger:
        ledger.enlist()
        ledger.register(entries)

        def behaviour(job):
            bad = job.key == "b" and job.attempt == 1
            return 90.0, failed("lost", Trouble.LOST) if bad else finished(job)

        events = Events(str(tmp_path / "new" / "events.jsonl"), "toy")
        Driver(entries, ledger, SimulatedPool(clock, behaviour), show=events.show).run()
        events.done(report(ledger))
        events.close()
        lines = (tmp_path / "new" / "events.jsonl").read_text()
        yield [json.loads(line) for line in lines.splitlines()], report(ledger)


def test_every_start_and_end_is_told_in_order(swept):
    events, _ = swept
    story = [(e["event"], e["run"], e.get("attempt"), e.get("state")) for e in events if "run" in e]
    assert sorted(story[:2]) == [("started", "a", 1, None), ("started", "b", 1, None)]
    assert ("ended", "b", None, "waiting") in story
    assert story[-2:] == [("started", "b", 2, None), ("ended", "b", None, "finished")]
    assert {e["sweep"] for e in events} == {"toy"}
    assert events[0]["family"] == "uniform"
    assert events[0]["budget"] == 1e9


def test_the_sweep_is_told_with_what_is_left_and_how_it_ended(swept):
    events, _ = swept
    sweeps = [e for e in events if e["event"] == "sweep"]
    assert sweeps[0]["planned"] == 2
    assert sweeps[0]["left_s"] > 0
    assert sweeps[-1] | {"finished": 2, "running": 0, "left_s": 0.0} == sweeps[-1]
    assert events[-1]["event"] == "done"
    assert events[-1]["counts"] == {"finished": 2}


def test_a_file_that_cannot_be_written_is_refused_before_anything_starts(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"--events .* cannot be written"):
        Events(str(tmp_path / "file" / "events"), "toy")


@pytest.fixture
def server():
    """A web server that refuses the first request; `got` has the bodies."""
    got: list[dict] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            got.append(json.loads(body))
            self.send_response(503 if len(got) == 1 else 200)
            self.end_headers()

        def log_message(self, *args):
            return

    httpd = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=httpd.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{httpd.server_port}/hook", got
    httpd.shutdown()
    thread.join()
    httpd.server_close()


def test_the_webhook_is_told_again_when_it_was_not_heard(swept, server, monkeypatch):
    monkeypatch.setattr("sweeps.show.events.time.sleep", lambda seconds: None)
    url, got = server
    assert call_webhook(url, "toy", swept[1]) is None
    assert len(got) == 2
    assert got[1]["text"] == "sweep toy: 2 runs: 2 finished"
    assert got[1]["counts"] == {"finished": 2}


def test_a_webhook_that_is_not_there_is_told_and_does_no_harm(swept, monkeypatch):
    monkeypatch.setattr("sweeps.show.events.time.sleep", lambda seconds: None)
    assert "could not be reached" in call_webhook("http://127.0.0.1:1/", "toy", swept[1])
    with pytest.raises(UserError, match="must begin with http"):
        check_webhook("file:///etc/passwd")
