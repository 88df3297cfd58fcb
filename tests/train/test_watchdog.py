"""A process without steps writes down where it hangs and ends; one that was merely stopped, paused or slow does not."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from pipeline.train.watchdog import HUNG, LAST_WORDS_S, Watchdog, stacks
from tests.fakes import FakeMember


class Hours:
    """A clock that goes on by what is waited, and then `jumps`; it ends the watch when its time is over."""

    def __init__(self, until_s):
        self.now_s, self.until_s, self.over = 0.0, until_s, threading.Event()
        self.at = {}

    def clock(self):
        return self.now_s

    def wait(self, closed, seconds):
        self.now_s += seconds
        for when in [when for when in self.at if when <= self.now_s]:
            self.at.pop(when)()
        if self.now_s >= self.until_s:
            self.over.set()
            return True
        return closed.is_set()


def _watched(tmp_path, hours, **limits):
    """(exit codes, messages) of a watch over all of `hours`."""
    codes, member = [], FakeMember(rank=3, world_size=4)

    def end(code):
        codes.append(code)
        hours.over.set()

    limits = {"limit_s": 30, "first_limit_s": 100} | limits
    about = {"member": member, "clock": hours.clock, "wait": hours.wait, "end": end}
    dog = Watchdog(str(tmp_path / "hang"), **about, **limits)
    return dog, codes, member.sent


def test_a_process_without_steps_writes_its_stacks_and_ends(tmp_path):
    hours = Hours(500)
    dog, codes, sent = _watched(tmp_path, hours)
    hours.at[10] = lambda: dog.beat(7)
    with dog:
        assert hours.over.wait(20)
    assert codes == [HUNG]
    (message,) = sent
    assert {name: message[name] for name in ("kind", "rank", "step")} == {"kind": "hang", "rank": 3, "step": 7}
    assert 30 < message["waited_s"] <= 32
    text = Path(message["uri"]).read_text()
    assert text.startswith("rank 3 of 4: 31 s without a step, after step 7")
    assert "tessera-watchdog" in text or "_watch" in text
    assert "test_a_process_without_steps" in text, "the main thread's stack is there too"


def test_the_first_step_may_take_longer(tmp_path):
    hours = Hours(99)
    dog, codes, _ = _watched(tmp_path, hours)
    with dog:
        assert hours.over.wait(20)
    assert codes == []


def test_steps_keep_it_quiet_and_so_does_a_pause(tmp_path):
    hours = Hours(400)
    dog, codes, _ = _watched(tmp_path, hours)
    hours.at |= {second: (lambda step=second: dog.beat(step)) for second in range(0, 200, 25)}
    pause = dog.paused()
    hours.at[190] = pause.__enter__
    hours.at[385] = lambda: pause.__exit__(None, None, None)
    with dog:
        assert hours.over.wait(20)
    assert codes == []


def test_time_in_which_the_process_did_not_run_does_not_count(tmp_path):
    hours = Hours(4000)
    dog, codes, _ = _watched(tmp_path, hours)

    def sleep():
        hours.now_s += 3900

    hours.at[20] = sleep
    with dog:
        assert hours.over.wait(20)
    assert codes == []


def test_storage_that_hangs_holds_the_end_up_only_so_long(tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.train.watchdog.LAST_WORDS_S", 0.2)
    never = threading.Event()
    monkeypatch.setattr("pipeline.storage.write", lambda *_: never.wait())
    hours = Hours(500)
    dog, codes, sent = _watched(tmp_path, hours)
    with dog:
        assert hours.over.wait(20)
    never.set()
    assert codes == [HUNG]
    assert sent[0]["kind"] == "hang", "the driver is told before storage is asked"
    assert LAST_WORDS_S < 60


GANG = """
import os, sys, torch.distributed as dist, torch
from pipeline.train.watchdog import Watchdog
from tests.fakes import FakeMember
rank, folder = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
with Watchdog(f"{folder}/hang", member=FakeMember(rank=rank, world_size=2), limit_s=3, first_limit_s=3) as dog:
    for step in range(1, 10**6):
        dist.all_reduce(torch.zeros(1))
        dog.beat(step)
        if step == 100:
            print("going", flush=True)
"""


@pytest.mark.timeout(90)
def test_who_waits_for_a_stopped_peer_says_so_and_ends(tmp_path):
    command = [sys.executable, "-c", GANG]
    about = {"stdout": subprocess.PIPE, "text": True, "env": {**os.environ, "OMP_NUM_THREADS": "1"}}
    peers = [subprocess.Popen([*command, str(rank), str(tmp_path)], **about) for rank in range(2)]
    try:
        for peer in peers:
            assert peer.stdout.readline() == "going\n"
        peers[1].send_signal(signal.SIGSTOP)
        assert peers[0].wait(60) == HUNG
        (file,) = (tmp_path / "hang").iterdir()
        assert "all_reduce" in file.read_text(), "it is seen where it waited"
        assert peers[1].poll() is None, "a stopped process does not think that it has hung"
    finally:
        for peer in peers:
            peer.kill()
            peer.communicate()


def test_stacks_are_those_of_every_thread():
    held, go = threading.Event(), threading.Event()

    def wait_for_godot():
        held.set()
        go.wait()

    thread = threading.Thread(target=wait_for_godot)
    thread.start()
    held.wait()
    text = stacks().decode()
    go.set()
    thread.join()
    assert "wait_for_godot" in text
    assert "test_stacks_are_those_of_every_thread" in text
