"""GPUs and what joins them, by their vendors' data sheets. Standard library only.

NVIDIA's, each of the SXM or HGX form where there are several: "H100 Tensor Core GPU", "H200 Tensor Core GPU", "A100
Tensor Core GPU" (40 and 80 GB), "HGX B200" and "L40S". They print bf16 with sparsity, which is twice the dense figure
that stands here, and bandwidth of both directions together, of which half stands here.
"""

from dataclasses import dataclass

from pipeline.models import flops


@dataclass(frozen=True)
class Machine:
    """A GPU and what joins it to others. Bandwidths are per GPU and direction, in bytes a second.

    peak_flops: dense bf16. peak_flops_fp32: of the ordinary cores, which is what torch uses unless told otherwise.
    link: to the other GPUs of its node: NVLink with 900 (Hopper), 600 (Ampere) or 1800 GB/s (Blackwell) both ways; PCIe
        where there is none. host: to the host's memory, PCIe of 16 lanes: 128 GB/s both ways (generation 5) or 64 (4).
    network: 400 Gbit/s for each GPU, as in DGX H100 and most clouds. `reached`: the share of all these that large
        copies reach. hop_s: what one step of a collective between nodes costs besides.
    """

    name: str
    peak_flops: float
    peak_flops_fp32: float
    memory_gib: float
    link: float
    host: float
    network: float = 50e9
    gpus_per_node: int = 8
    reached: float = 0.8
    hop_s: float = 20e-6


_A100 = Machine("A100", flops.PEAK_FLOPS["A100"], 19.5e12, 80, link=300e9, host=32e9)

# What a data sheet calls 80 GB are 80 GiB in HBM; B200 and L40S show their driver somewhat less.
MACHINES = {
    "h100": Machine("H100", flops.PEAK_FLOPS["H100"], 67e12, 80, link=450e9, host=64e9),
    "h200": Machine("H200", flops.PEAK_FLOPS["H200"], 67e12, 141, link=450e9, host=64e9),
    "a100": _A100,
    "a100-80": _A100,
    "a100-40": Machine("A100 40 GB", flops.PEAK_FLOPS["A100"], 19.5e12, 40, link=300e9, host=32e9),
    "b200": Machine("B200", flops.PEAK_FLOPS["B200"], 75e12, 179, link=900e9, host=64e9),
    "l40s": Machine("L40S", flops.PEAK_FLOPS["L40S"], 91.6e12, 45, link=32e9, host=32e9),
}
