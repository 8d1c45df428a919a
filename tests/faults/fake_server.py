"""A server process over a worker process that runs the reciting model."""

import asyncio
import json
import sys

from tests.server.fake_model import served_model
from yearling.core.log import set_up_logging
from yearling.server.config import ServerConfig
from yearling.server.launch import serve_models
from yearling.server.limits import Limits
from yearling.server.listener import bind, url_of
from yearling.serving.worker import ModelWorker


async def _main() -> int:
    set_up_logging("info")
    executor = json.loads(sys.argv[2])
    limits = Limits(**executor.pop("limits", {}))
    config = ServerConfig(port=int(sys.argv[1]), limits=limits)
    worker = ModelWorker("reciter", executor, entry="tests.server.fake_model:build_engine")
    listener = bind(config)
    was_whole = await serve_models(
        [served_model(worker, limits=limits)],
        [asyncio.create_task(worker.start())],
        config,
        listener=listener,
        on_ready=lambda: print(f"ready {url_of(listener)} worker={worker.pid}", flush=True),
    )
    return 0 if was_whole else 1


if __name__ == "__main__":
    sys.exit(asyncio.run(_main()))
