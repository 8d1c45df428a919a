"""What compressed state refuses."""

import pytest
import torch

from tests.training.optimizers.quadratic import parameters
from yearling.core.errors import UnsupportedError
from yearling.training.optimizers import optimizers
from yearling.training.sharded import whole


@pytest.mark.parametrize("name", ["adamw_4bit", "factor_4bit", "adamw_8bit"])
def test_sharded_parameters_are_refused(name: str, tmp_path) -> None:
    from torch.distributed import destroy_process_group, init_process_group
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Replicate, distribute_tensor

    init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        mesh = init_device_mesh("cpu", (1,))
        sharded = distribute_tensor(torch.ones(8, 8), mesh, [Replicate()])
        assert torch.equal(whole(sharded), torch.ones(8, 8))
        kind = optimizers.get(name)
        with pytest.raises(UnsupportedError, match=r"sharded over processes.*optimizer 'adamw'"):
            kind.build([{"params": [torch.nn.Parameter(sharded)]}], kind.config())
    finally:
        destroy_process_group()


def test_a_closure_is_run_as_torchs_optimizers_run_it() -> None:
    kind, weights = optimizers.get("adamw_4bit"), parameters()
    optimizer = kind.build([{"params": weights}], kind.config())

    def closure() -> torch.Tensor:
        loss = torch.stack([weight.square().sum() for weight in weights]).sum()
        loss.backward()
        return loss

    assert optimizer.step(closure) > 0
    assert "step" in optimizer.state[weights[0]]
