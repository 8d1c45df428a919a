"""Pairs of processes that end right after a collective; tells how many of them ended badly.

Run as `gloo_ends PAIRS`, whose last line is that number. Each process is a fork, so that torch is
imported once.
"""

import os
import socket
import sys
from typing import NoReturn

import torch
import torch.distributed as dist

from yearling.training.parallel import process_group

_NEVER_SECONDS = 1000.0
_groups: list[object] = []


def _end_after_collectives(rank: int, port: int) -> NoReturn:
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    with process_group(timeout_seconds=20):
        _groups.append(dist.group.WORLD)  # as DTensor's caches hold it
        dist.barrier()
        # Gloo's threads, which tell before they let go, get the interpreter only when this sleeps.
        sys.setswitchinterval(_NEVER_SECONDS)
        works = [dist.all_reduce(torch.ones(1024), async_op=True) for _ in range(50)]
        last = works.pop()
        works.clear()
        assert last is not None
        last.wait()
        del last
    sys.exit(0)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
    return port


def main() -> None:
    """Start the pairs one after the other."""
    torch.set_num_threads(1)
    num_bad = 0
    for _pair in range(int(sys.argv[1])):
        port = _free_port()
        pids = []
        for rank in range(2):
            pid = os.fork()
            if pid == 0:
                _end_after_collectives(rank, port)
            pids.append(pid)
        num_bad += sum(os.waitpid(pid, 0)[1] != 0 for pid in pids)
    print(num_bad)


if __name__ == "__main__":
    main()
