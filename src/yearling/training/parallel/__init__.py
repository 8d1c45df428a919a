"""Training by several processes, through PyTorch's own engines: DDP, FSDP2 and tensor parallelism.

`torchrun` starts the processes and starts them again when one is lost. Each opens the group, a
`Processes` describes how they share the work, and the loop sees no more of it than `Ranks`.
"""

from yearling.training.parallel.config import ParallelConfig
from yearling.training.parallel.group import process_group, torchrun_command
from yearling.training.parallel.processes import Processes
from yearling.training.parallel.share import ShareOfSource

__all__ = ["ParallelConfig", "Processes", "ShareOfSource", "process_group", "torchrun_command"]
