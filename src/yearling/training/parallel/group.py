"""The processes of a run: how torchrun starts them, and how they meet."""

import socket
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from ipaddress import ip_address
from pathlib import Path

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import Store, TCPStore

from yearling.core.environment import read_variable, set_variable
from yearling.core.errors import ConfigError

__all__ = ["is_distributed", "process_group", "torchrun_command"]

_TIMEOUT_SECONDS = 600.0
_GLOO_THREAD = "pt_gloo_runloop"  # as torch names them
_TOLD_OF_THREADS = ("State:", "voluntary_ctxt_switches:", "nonvoluntary_ctxt_switches:")
_LOOK_SECONDS, _PATIENCE_SECONDS = 0.02, 10.0


def torchrun_command(
    script: Sequence[str], num_processes: int, meeting: Path, *, max_restarts: int = 3
) -> tuple[list[str], Mapping[str, str]]:
    """Give the command, and what to add to its environment, that runs a script in processes here.

    When a process ends badly, torchrun ends the others and starts all of them again, and the run
    goes on from its last checkpoint. Nothing listens on any address but loopback: torchrun itself
    meets in a file, and its processes where `process_group` says.

    Args:
        script: Path and arguments of a Python script, or `-m`, a module and arguments.
        num_processes: On this machine.
        meeting: A file that torchrun makes for this run and this start.
        max_restarts: How often all are started again.
    """
    command = [sys.executable, "-m", "torch.distributed.run"]
    command += ["--nnodes", "1", "--nproc-per-node", str(num_processes)]
    command += ["--max-restarts", str(max_restarts), "--monitor-interval", "0.1"]
    command += ["--rdzv-backend", "c10d", "--rdzv-conf", "store_type=file"]
    command += ["--rdzv-endpoint", str(meeting), "--local-addr", "127.0.0.1"]
    # Else torchrun would open a port of its own, on every address.
    return [*command, *script], {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}


def is_distributed() -> bool:
    """Whether torchrun started this process, alone or with others."""
    return read_variable("WORLD_SIZE") is not None


@contextmanager
def process_group(timeout_seconds: float = _TIMEOUT_SECONDS) -> Iterator[None]:
    """Be one of torchrun's processes inside the context; do nothing in a process of its own.

    Processors talk by Gloo, GPUs by NCCL. Unless `GLOO_SOCKET_IFNAME` names a network interface,
    processes that meet on loopback also talk there and nowhere else.

    Args:
        timeout_seconds: Longest wait for another process.

    Raises:
        ConfigError: torchrun's variables are not complete.
    """
    if not is_distributed():
        yield
        return
    rank, size, host, port = _place()
    is_local = _is_loopback(host)
    if is_local and read_variable("GLOO_SOCKET_IFNAME") is None:
        set_variable("GLOO_SOCKET_IFNAME", _loopback_interface())
    timeout = timedelta(seconds=timeout_seconds)
    has_gpu = torch.cuda.is_available()
    if has_gpu:
        torch.cuda.set_device(int(read_variable("LOCAL_RANK") or 0))
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if has_gpu else "gloo",
        store=_store(rank, size, host, port, timeout),
        rank=rank,
        world_size=size,
        timeout=timeout,
    )
    try:
        yield
    finally:
        _wait_for_gloo()
        dist.destroy_process_group()


def _wait_for_gloo() -> None:
    """Wait until Gloo's threads sleep, which tell that a collective is done before they let go.

    What they let go are tensors, which takes the interpreter: in a process that ends meanwhile,
    "terminate called without an active exception" (https://github.com/pytorch/pytorch/pull/179291).
    Groups outlive `destroy_process_group` in the caches of DTensor, and so do their threads.
    """
    deadline = time.monotonic() + _PATIENCE_SECONDS
    before = _gloo_threads()
    while before and time.monotonic() < deadline:
        time.sleep(_LOOK_SECONDS)  # which gives them the interpreter
        now = _gloo_threads()
        if now == before and all("S (sleeping)" in states[0] for states in now.values()):
            return
        before = now


def _gloo_threads() -> dict[str, list[str]]:
    """State and context switches of each, as Linux tells them; nothing elsewhere."""
    states = {}
    for task in Path("/proc/self/task").glob("*"):
        with suppress(OSError):  # it has just ended
            if (task / "comm").read_text(errors="replace").strip() != _GLOO_THREAD:
                continue
            lines = (task / "status").read_text(errors="replace").splitlines()
            states[task.name] = [line for line in lines if line.startswith(_TOLD_OF_THREADS)]
    return states


def _place() -> tuple[int, int, str, int]:
    names = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    values = [read_variable(name) for name in names]
    missing = [name for name, value in zip(names, values, strict=True) if value is None]
    if missing:
        raise ConfigError(
            f"WORLD_SIZE is set, but {', '.join(missing)} not.\n"
            "  Start training with torchrun, which sets them all, or unset WORLD_SIZE."
        )
    rank, size, host, port = (str(value) for value in values)
    return int(rank), int(size), host, int(port)


def _store(rank: int, size: int, host: str, port: int, timeout: timedelta) -> Store:
    """The meeting place: torchrun's, or one of rank 0's that listens on its own address alone."""
    is_theirs = read_variable("TORCHELASTIC_USE_AGENT_STORE") == "True"
    if is_theirs or rank != 0:
        return TCPStore(host, port, size, is_master=False, timeout=timeout)
    # TCPStore would listen on every address; it takes over a socket that does not.
    listening = socket.create_server((_numeric(host), port), family=_family(host), backlog=128)
    return TCPStore(
        host,
        port,
        size,
        is_master=True,
        timeout=timeout,
        wait_for_workers=False,
        master_listen_fd=listening.detach(),
    )


def _numeric(host: str) -> str:
    return str(socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0][4][0])


def _family(host: str) -> socket.AddressFamily:
    return socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0][0]


def _is_loopback(host: str) -> bool:
    return ip_address(_numeric(host)).is_loopback


def _loopback_interface() -> str:
    names = [name for _, name in socket.if_nameindex() if name.startswith("lo")]
    return names[0] if names else "lo"
