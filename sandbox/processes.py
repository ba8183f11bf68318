"""Processes of the container, as /proc has them: which there are, signals to them, what memory has cost."""

import os
from typing import NamedTuple


class Process(NamedTuple):
    """A process as /proc has it."""

    pid: int
    parent: int
    session: int


def all_pids() -> set[int]:
    return {int(name) for name in os.listdir("/proc") if name.isdigit()}


def all_processes() -> list[Process]:
    """All that live; zombies do not."""
    found = map(process_of, all_pids())
    return [process for process in found if process]


def process_of(pid: int) -> Process | None:
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            state, parent, _, session, *_ = file.read().rpartition(")")[2].split()
    except OSError:
        return None
    return None if state == "Z" else Process(pid, int(parent), int(session))


def wait_for(pid: int) -> None:
    """Wait for the end of a child that was killed."""
    try:
        os.waitpid(pid, 0)
    except ChildProcessError:
        return


def send_signal(pid: int, number: int) -> None:
    """Signal a process that may be gone. Never 0 or 1: those would mean everybody, or ourselves."""
    if pid > 1:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            return


def signal_group(pid: int, number: int) -> None:
    try:
        os.killpg(pid, number)
    except ProcessLookupError:
        return


def oom_kills() -> int:
    """How many processes of this container the kernel has killed for memory; 0 where it does not say."""
    for path in ("/sys/fs/cgroup/memory.events", "/sys/fs/cgroup/memory/memory.oom_control"):
        try:
            with open(path, encoding="ascii") as lines:
                for line in lines:
                    key, _, value = line.partition(" ")
                    if key == "oom_kill":
                        return int(value)
        except OSError:
            continue
    return 0
