"""How processes share the work of training."""

from pydantic import Field, model_validator

from yearling.core.config import Config
from yearling.core.errors import ConfigError

__all__ = ["ParallelConfig"]


class ParallelConfig(Config):
    """How processes share the work; their number is the product of the three."""

    data: int | None = Field(
        default=None,
        ge=1,
        description="Copies of the model, each learning from rows of its own; as many as there "
        "are processes left for when not set.",
    )
    shard: int = Field(
        default=1,
        ge=1,
        description="Processes that divide a copy's weights, gradients and optimizer state "
        "(FSDP2), each learning from rows of its own.",
    )
    tensor: int = Field(
        default=1,
        ge=1,
        description="Processes that divide each matrix (tensor parallelism) and learn from the "
        "same rows.",
    )
    finds_unused: bool = Field(
        default=False,
        description="Whether to look after each step for parameters that had no part in the "
        "loss, as experts that no row chose have not; needed for those with `data` alone.",
    )

    @model_validator(mode="after")
    def _copies_are_not_split(self) -> "ParallelConfig":
        if self.tensor > 1 and self.shard == 1 and (self.data or 1) > 1:
            raise ValueError(
                f"data={self.data} copies cannot be split by tensor={self.tensor} alone. "
                f"Set shard={self.data} and data=1: the rows are shared in the same way."
            )
        return self

    def sizes(self, num_processes: int) -> tuple[int, int, int]:
        """Give data, shard and tensor for a number of processes.

        >>> ParallelConfig(shard=2).sizes(4)
        (2, 2, 1)

        Raises:
            ConfigError: the product is another number.
        """
        inner = self.shard * self.tensor
        data = self.data or max(1, num_processes // inner)
        if data * inner != num_processes:
            raise ConfigError(
                f"parallel.data={data} x shard={self.shard} x tensor={self.tensor} needs "
                f"{data * inner} processes, and there are {num_processes}.\n"
                f"  Start torchrun with --nproc-per-node {data * inner}, or change one of them."
            )
        if data > 1 and self.shard == 1 and self.tensor > 1:
            raise ConfigError(
                f"{num_processes} processes make {data} copies, which tensor={self.tensor} alone "
                f"cannot split.\n  Set parallel.shard={data}: rows are shared in the same way."
            )
        return data, self.shard, self.tensor
