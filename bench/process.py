"""Worker processes: starting them, asking them, ending them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

from bench.job import Job

ROOT = Path(__file__).parent.parent
END_SECONDS = 2


class ContenderError(RuntimeError):
    """A contender could not do what it was asked for."""


class Contender:
    """A worker process, in a session of its own: Ctrl-C reaches the parent, which ends it."""

    def __init__(self, peer: str) -> None:
        self.peer = peer
        self.log = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed with the process
        self.process = subprocess.Popen(
            [sys.executable, "-m", "bench.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
            cwd=ROOT,
            start_new_session=True,
        )

    def send(self, **line: Any) -> None:
        """One line to the process."""
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):  # `receive` says why it ended
            self.process.stdin.write(json.dumps(line) + "\n")
            self.process.stdin.flush()

    def receive(self) -> Any:
        """Its answer; raises ContenderError with what went wrong."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            self.process.wait()
            self.log.seek(0)
            said = self.log.read().strip()[-400:]
            raise ContenderError(f"ended with code {self.process.returncode}: {said}")
        answer = json.loads(line)
        if "error" in answer:
            raise ContenderError(" ".join(str(answer["error"]).split())[:300])
        return answer["value"]

    def ask(self, **line: Any) -> Any:
        """Send and receive."""
        self.send(**line)
        return self.receive()

    def prepare(self, job: Job) -> None:
        """Send the job; the answer is to be received."""
        self.send(do="prepare", job=job.to_json())

    def dismiss(self) -> None:
        """Let the process end when it has nothing more to do."""
        assert self.process.stdin is not None
        with suppress(OSError):
            self.process.stdin.close()

    def close(self) -> None:
        """End the process, and what it has started."""
        self.dismiss()
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(END_SECONDS)
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()
        self.log.close()


class Crew:
    """Processes by contender, kept from row to row where they may be."""

    def __init__(self) -> None:
        self.kept: dict[str, Contender] = {}

    def get(self, peer: str) -> Contender:
        """The process of a contender, new if there is none that runs."""
        if peer in self.kept and self.kept[peer].process.poll() is not None:
            self.drop(peer)
        if peer not in self.kept:
            self.kept[peer] = Contender(peer)
        return self.kept[peer]

    def drop(self, peer: str) -> None:
        """End the process of one contender."""
        if peer in self.kept:
            self.kept.pop(peer).close()

    def close(self) -> None:
        """End all."""
        for contender in self.kept.values():
            contender.dismiss()
        for peer in list(self.kept):
            self.drop(peer)
