"""strace as a fault injector and recorder, and what a disk may hold after a power cut."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from tests.server.live import ROOT

CALLS = ("openat", "read", "write", "fsync", "mkdir", "rename", "symlink", "unlinkat", "rmdir")
CHANGES = "openat,write,fsync,mkdir,rename,symlink,unlink,unlinkat,rmdir"
PATH = r'"((?:[^"\\]|\\.)*)"'


def trace(root: Path, options: Sequence[str], output: str = "/dev/null") -> int:
    """Run the probe under strace; its exit status, negative for a signal."""
    program = shutil.which("strace")
    assert program is not None, "strace is not installed: run `tools/set_up.sh tracer`."
    # Calls that are not asked for pass at full speed, but then no signal is sent.
    speed = [] if any("signal=" in option for option in options) else ["--seccomp-bpf"]
    # Nor bytecode: the run that writes it makes more calls than the next, and calls are counted.
    probe = [sys.executable, "-S", "-E", "-B", "-c", _START, str(ROOT), str(root)]
    ended = subprocess.run(
        [program, "-f", *speed, "-qq", "-y", "-o", output, *options, *probe],
        capture_output=True,
        text=True,
        timeout=60,
        env={"PATH": os.environ["PATH"]},
    )
    refusal = "strace may not trace here (ptrace is not permitted): allow SYS_PTRACE and run again."
    assert "ptrace" not in ended.stderr.lower(), refusal
    if ended.returncode not in (0, 3, -9, 137):
        raise AssertionError(f"{options}: ended with {ended.returncode}: {ended.stderr[-2000:]}")
    return ended.returncode


# Without site-packages, the probe starts in a tenth of the time.
_START = """import sys
root = sys.argv.pop(1)
sys.path[:0] = [root + "/src", root]
from tests.faults.durable_probe import main
from pathlib import Path
sys.exit(main(Path(sys.argv[1])))
"""


def own_calls(root: Path, log: Path) -> dict[str, list[int]]:
    """For each system call, which of its occurrences concern the checkpoint folder."""
    trace(root, ["-e", "trace=" + ",".join(CALLS)], str(log))
    counts = dict.fromkeys(CALLS, 0)
    own: dict[str, list[int]] = {call: [] for call in CALLS}
    for line in log.read_text().splitlines():
        match = re.match(r"\d+ +(\w+)\(", line)
        if match and match[1] in counts:
            counts[match[1]] += 1
            if str(root) in line:
                own[match[1]].append(counts[match[1]])
    return {call: found for call, found in own.items() if found}


@dataclass
class Node:
    """A file or folder, whatever its name: what a disk keeps apart from names."""

    is_folder: bool
    content: bytes = b""
    target: str | None = None
    entries: dict[str, "Node"] = field(default_factory=dict)


@dataclass(frozen=True)
class Change:
    """One change of the disk: names in folders, or bytes of a file.

    Attributes:
        names: (folder, name, node); a node of None takes the name away.
        file: Whose bytes are added, or None.
        added: The bytes.
    """

    names: tuple[tuple[Node, str, Node | None], ...] = ()
    file: Node | None = None
    added: bytes = b""


@dataclass
class Recording:
    """The changes of one run, in order, with what each fsync made certain.

    Attributes:
        start: The tree before.
        changes: In order.
        synced: After how many changes an fsync came, and the node it was for.
    """

    root: Path
    start: Node
    changes: list[Change] = field(default_factory=list)
    synced: list[tuple[int, Node]] = field(default_factory=list)

    def uncertain(self, moment: int) -> list[int]:
        """Changes before a moment that no fsync has made certain by then."""
        certain = set()
        for when, node in self.synced:
            if when <= moment:
                for number, change in enumerate(self.changes[:when]):
                    nodes = [folder for folder, _, _ in change.names] + [change.file]
                    if any(node is found for found in nodes):
                        certain.add(number)
        return [number for number in range(moment) if number not in certain]

    def write(self, target: Path, moment: int, lost: frozenset[int]) -> None:
        """Make the tree as a disk has it that kept all changes before a moment but the lost."""
        names: dict[int, dict[str, Node]] = {}
        content: dict[int, bytes] = {}
        for number, change in enumerate(self.changes[:moment]):
            if number in lost:
                continue
            for folder, name, node in change.names:
                entries = names.setdefault(id(folder), dict(folder.entries))
                if node is None:
                    entries.pop(name, None)
                else:
                    entries[name] = node
            if change.file is not None:
                content[id(change.file)] = content.get(id(change.file), b"") + change.added
        _write_node(self.start, target, names, content)


def _write_node(
    node: Node, place: Path, names: dict[int, dict[str, Node]], content: dict[int, bytes]
) -> None:
    if node.target is not None:
        place.symlink_to(node.target)
    elif not node.is_folder:
        place.write_bytes(content.get(id(node), node.content))
    else:
        place.mkdir()
        for name, inside in names.get(id(node), node.entries).items():
            _write_node(inside, place / name, names, content)


def record(root: Path, log: Path) -> Recording:
    """Run the probe on a folder and record what it changes."""
    start = _read_node(root)
    live = _read_node(root)
    recording = Recording(root, live)
    recording.start = live
    trace(root, ["-e", "trace=" + CHANGES], str(log))
    names = {id(live): dict(live.entries)}
    final = {path.name: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    offsets: dict[int, int] = {}

    def entries(folder: Node) -> dict[str, Node]:
        return names.setdefault(id(folder), dict(folder.entries))

    def find(path: str) -> Node | None:
        found: Node | None = live
        for name in Path(path).relative_to(root).parts:
            found = None if found is None else entries(found).get(name)
        return found

    def link(*changes: tuple[str, Node | None]) -> None:
        resolved = []
        for path, node in changes:
            folder = find(str(Path(path).parent))
            assert folder is not None, path
            resolved.append((folder, Path(path).name, node))
        for folder, name, node in resolved:
            if node is None:
                entries(folder).pop(name)
            else:
                entries(folder)[name] = node
        recording.changes.append(Change(tuple(resolved)))

    for line in log.read_text().splitlines():
        if str(root) not in line or " = -1 " in line:
            continue
        call = re.sub(r"^\d+ +", "", line)
        if match := re.match(rf"openat\([^,]*, {PATH}, [^)]*O_CREAT", call):
            if find(match[1]) is None:
                link((match[1], Node(False)))
        elif match := re.match(rf"mkdir\({PATH}", call):
            link((match[1], Node(True)))
        elif match := re.match(rf"rename\({PATH}, {PATH}", call):
            link((match[1], None), (match[2], find(match[1])))
        elif match := re.match(rf"symlink\({PATH}, {PATH}", call):
            link((match[2], Node(False, target=match[1])))
        elif match := re.match(rf"(?:unlink|rmdir)\({PATH}", call):
            link((match[1], None))
        elif match := re.match(rf"unlinkat\(\d+<([^>]*)>, {PATH}", call):
            link((f"{match[1]}/{match[2]}", None))
        elif match := re.match(rf"unlinkat\(AT_FDCWD[^,]*, {PATH}", call):
            link((match[1], None))
        elif match := re.match(r"write\(\d+<([^>]*)>.* = (\d+)$", call):
            node = find(match[1])
            assert node is not None, call
            first = offsets.get(id(node), 0)
            offsets[id(node)] = first + int(match[2])
            added = final[Path(match[1]).name][first : offsets[id(node)]]
            recording.changes.append(Change(file=node, added=added))
        elif match := re.match(r"fsync\(\d+<([^>]*)>", call):
            node = find(match[1])
            assert node is not None, call
            recording.synced.append((len(recording.changes), node))
    assert _same(start, recording.start), "the tree before stays as it was"
    return recording


def crash_states(
    recording: Recording, count: int, seed: int
) -> Iterator[tuple[int, frozenset[int]]]:
    """Moments, and which uncertain changes are lost then: none, all, each alone, and at random."""
    random = Random(seed)
    states: set[tuple[int, frozenset[int]]] = set()
    for moment in range(len(recording.changes) + 1):
        uncertain = recording.uncertain(moment)
        states |= {(moment, frozenset()), (moment, frozenset(uncertain))}
        states |= {(moment, frozenset({one})) for one in uncertain}
        for _ in range(12):
            lost = frozenset(one for one in uncertain if random.random() < 0.5)
            states.add((moment, lost))
    ordered = sorted(states, key=lambda state: (state[0], sorted(state[1])))
    random.shuffle(ordered)
    yield from ordered[:count]


def _read_node(path: Path) -> Node:
    if path.is_symlink():
        return Node(False, target=str(path.readlink()))
    if path.is_file():
        return Node(False, content=path.read_bytes())
    return Node(True, entries={inside.name: _read_node(inside) for inside in path.iterdir()})


def _same(one: Node, other: Node) -> bool:
    return (
        (one.content, one.target, one.entries.keys())
        == (other.content, other.target, other.entries.keys())
    ) and all(_same(one.entries[name], other.entries[name]) for name in one.entries)
