"""What checkpoints and faults take from a run on many GPUs, in closed form. Knows no recipe."""

import math
from dataclasses import dataclass

from pipeline.models.machine import Machine

# Llama 3 (arXiv 2407.21783, section 3.3.4): 419 unexpected interruptions in 54 days of 16,384 H100, one in 50,700 hours
# of a GPU. Kokolis et al. (arXiv 2410.21680) met one in 8,100 on clusters of research, with 1,024 GPUs in a job.
GPU_MTBF_H = 50_000.0
RESTART_S = 300.0  # from a fault to the next step: processes, a batch of data, compiled blocks


@dataclass(frozen=True)
class Upkeep:
    """One checkpoint of `num_bytes`, saved `every_s`, and faults every `mtbf_s` of the whole gang. Times in seconds.

    stall_s: how long training stands still for it. write_s: until it is whole, behind the steps. best_s: the interval
    that loses least. lost: the share of the time that makes no progress, 1 where nothing is left.
    """

    num_bytes: int
    every_s: float
    stall_s: float
    write_s: float
    mtbf_s: float
    best_s: float
    lost: float


def upkeep(num_bytes: int, *, gpus: int, machine: Machine, every_s: float, storage: float, gpu_mtbf_h: float) -> Upkeep:
    """Of a checkpoint that is divided among the GPUs; `storage` is what a node writes, in bytes a second.

    stall   bytes / GPUs / what the link to the host reaches; and what is left to write of the one before
    write   bytes / nodes / storage
    mtbf    of a GPU / GPUs: faults of any is one of all
    best    sqrt(2 x stall x mtbf) (Young, CACM 17(9), 1974), but no oftener than one can be written
    lost    stall / (every + stall) + (every / 2 + write + restart) / mtbf: half an interval of work for each fault
            (Young; Daly, FGCS 22(3), 2006, adds the restart), and what was saved but not yet whole
    """
    write_s = num_bytes / math.ceil(gpus / machine.gpus_per_node) / storage
    copy_s = num_bytes / gpus / (machine.host * machine.reached)
    stall_s = copy_s + max(0.0, write_s - every_s)
    mtbf_s = 3600 * gpu_mtbf_h / gpus
    lost = stall_s / (every_s + stall_s) + (every_s / 2 + write_s + RESTART_S) / mtbf_s
    best_s = max(math.sqrt(2 * copy_s * mtbf_s), write_s)
    return Upkeep(num_bytes, every_s, stall_s, write_s, mtbf_s, best_s, min(1.0, lost))
