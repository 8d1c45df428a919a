"""OpenAI's npm client against the embedded model; it comes from the npm registry."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.server.live import LiveServer

pytestmark = pytest.mark.network

MODEL = "SmolLM2-135M-Instruct.Q4_1"
PROGRAM = Path(__file__).with_name("npm_client.mjs")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("npm") is None:
        pytest.skip("npm is not installed")
    made = tmp_path_factory.mktemp("npm")
    shutil.copy(PROGRAM, made)
    install = ["npm", "install", "--no-audit", "--no-fund", "--silent", "openai@6"]
    subprocess.run(install, cwd=made, check=True, timeout=300)
    return made


def test_the_npm_client_chats_streams_calls_tools_and_gets_objects(
    smollm2_server: LiveServer, folder: Path
) -> None:
    command = ["node", PROGRAM.name, f"{smollm2_server.url}/v1", MODEL]
    ran = subprocess.run(
        command, cwd=folder, check=True, timeout=120, capture_output=True, text=True
    )
    said = json.loads(ran.stdout)
    assert said["models"] == [MODEL]
    assert said["whole"]
    assert said["streamed"] == said["whole"]
    assert said["called"]["name"] == "add"
    assert json.loads(said["called"]["arguments"]) == {"a": 17, "b": 25}
    assert said["final"]["arguments"] == said["called"]["arguments"]
    assert json.loads(said["object"]) == {"a": 3, "b": 4}
    assert said["refused"] == "BadRequestError modalities"
