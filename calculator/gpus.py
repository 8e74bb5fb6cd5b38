"""The catalogue: memory as the driver reports it.

NVIDIA's figures are the totals that `nvidia-smi` prints under drivers 510 and later, which count what the driver
itself reserves; with error correction on where that is the card's default. AMD's are `rocm-smi --showmeminfo vram`,
Intel's those of hl-smi and of torch's XPU properties, Apple's the share of unified memory that Metal recommends, and
Google's the limit that XLA names when a program does not fit. Where no output of the driver was found, the row holds
the capacity the vendor names, in binary gigabytes, and its source says so.
"""

from __future__ import annotations

import re
from functools import cache
from typing import NamedTuple

from .errors import UnknownName, nearest
from .units import GIB, MIB


class GPU(NamedTuple):
    """A card: its name, its memory in bytes as the driver reports it, and the source of that figure.

    vendor   who makes it; empty for a card that a request describes by its memory alone
    nominal  the capacity it is sold with, in GB as the vendor counts them; 0 where that is not known
    aliases  other names that mean this card and no other
    """

    name: str
    memory: int
    source: str
    vendor: str = ""
    nominal: int = 0
    aliases: tuple[str, ...] = ()


def _smi(name: str, mib: int, nominal: int, seen: str = "", *aliases: str) -> GPU:
    """A card of NVIDIA whose total `nvidia-smi` was seen to print beside the name `seen`."""
    seen = seen or f"GeForce {name.replace('-', ' ')}"
    source = f"nvidia-smi prints {mib}MiB for NVIDIA {seen}"
    return GPU(name, mib * MIB, source, "NVIDIA", nominal, (f"NVIDIA {seen}", *aliases))


def _nominal(vendor: str, name: str, nominal: int, *aliases: str) -> GPU:
    """A card known by its data sheet alone: drivers report up to 7 % less."""
    source = f"nominal: {vendor} sells it with {nominal} GB; the driver's own figure was not found"
    return GPU(name, nominal * GIB, source, vendor, nominal, aliases)


def _amd(name: str, nominal: int, seen: str, *aliases: str) -> GPU:
    """A card of AMD: rocm-smi counts 16 MiB less than the nominal capacity on every card whose output was seen."""
    memory = nominal * GIB - 16 * MIB
    source = (
        f"rocm-smi prints {memory} bytes of vram for {seen}"
        if seen
        else f"nominal {nominal} GB less the 16 MiB that rocm-smi leaves out on every AMD card seen"
    )
    return GPU(name, memory, source, "AMD", nominal, aliases)


def _xla(name: str, hundredths: int, nominal: int, *aliases: str) -> GPU:
    """A chip of Google: XLA says "Used … of 31.25G hbm" when a program does not fit, in binary gigabytes."""
    source = f"XLA's out-of-memory message names {hundredths / 100:.2f}G hbm"
    return GPU(name, hundredths * GIB // 100, source, "Google", nominal, aliases)


_NVIDIA = (
    # Blackwell, Hopper
    _smi("GB300", 284208, 288, "GB300"),
    _smi("B300", 275040, 288, "B300 SXM6 AC", "B300 SXM6"),
    _smi("GB200", 189471, 192, "GB200"),
    _smi("B200", 183359, 180, "B200", "B200 SXM"),
    _nominal("NVIDIA", "GH200-144GB", 144, "GH200 144G HBM3e"),
    _smi("GH200-96GB", 97871, 96, "GH200 480GB", "GH200", "GH200 120GB"),
    _smi("H200", 143771, 141, "H200", "H200 SXM", "H200-141GB"),
    _smi("H200-NVL", 143771, 141, "H200 NVL"),
    _nominal("NVIDIA", "H20-141GB", 141, "H20-3e"),
    _smi("H20", 97871, 96, "H20", "H20-96GB"),
    _smi("H100-80GB", 81559, 80, "H100 80GB HBM3", "H100", "H100 SXM", "H100 SXM5"),
    _smi("H100-PCIe", 81559, 80, "H100 PCIe", "H100 80GB PCIe"),
    _smi("H100-NVL", 95830, 94, "H100 NVL", "H100-94GB"),
    _smi("H800", 81559, 80, "H800", "H800-80GB"),
    # Ampere, Ada, Turing, Volta, Pascal
    _smi("A100-80GB", 81920, 80, "A100-SXM4-80GB", "A100 80GB PCIe", "A100 SXM 80GB"),
    _smi("A100-40GB", 40960, 40, "A100-SXM4-40GB", "A100-PCIE-40GB", "A100 SXM 40GB"),
    _smi("A800-80GB", 81920, 80, "A800 80GB PCIe", "A800", "A800-SXM4-80GB"),
    _smi("L40S", 46068, 48, "L40S"),
    GPU("L40", 46068 * MIB, "as the L40S: the same chip and memory, error correction on", "NVIDIA", 48),
    _smi("L20", 46068, 48, "L20"),
    _smi("L4", 23034, 24, "L4"),
    _smi("A40", 46068, 48, "A40"),
    _smi("A30", 24576, 24, "A30"),
    _smi("A16", 15356, 16, "A16"),  # one of the four GPUs of the board
    _smi("A10", 23028, 24, "A10"),
    _smi("A10G", 23028, 24, "A10G"),
    _smi("A2", 15356, 16, "A2"),
    _smi("T4", 15360, 16, "Tesla T4"),
    _smi("V100-32GB", 32768, 32, "Tesla V100-SXM2-32GB", "Tesla V100-PCIE-32GB"),
    _nominal("NVIDIA", "V100-16GB", 16, "Tesla V100-SXM2-16GB", "Tesla V100-PCIE-16GB"),
    _smi("P100-16GB", 16276, 16, "Tesla P100-PCIE-16GB", "P100", "Tesla P100-SXM2-16GB"),
    _smi("P40", 22919, 24, "Tesla P40"),
    GPU(
        "DGX-Spark",
        12169 * GIB // 100,
        "torch sees 121.69 GiB of the unified memory, nvidia-smi none (github.com/unslothai/unsloth/pull/10283)",
        "NVIDIA",
        128,
        ("GB10", "NVIDIA GB10"),
    ),
    # Workstation
    _smi(
        "RTX-PRO-6000-Blackwell",
        97887,
        96,
        "RTX PRO 6000 Blackwell Workstation Edition",
        "RTX PRO 6000",
        "RTX PRO 6000 Blackwell Server Edition",
        "RTX PRO 6000 Blackwell Max-Q Workstation Edition",
    ),
    _nominal("NVIDIA", "RTX-PRO-5000-Blackwell", 48, "RTX PRO 5000"),
    _nominal("NVIDIA", "RTX-PRO-4500-Blackwell", 32, "RTX PRO 4500"),
    _nominal("NVIDIA", "RTX-PRO-4000-Blackwell", 24, "RTX PRO 4000"),
    _smi("RTX-6000-Ada", 49140, 48, "RTX 6000 Ada Generation", "6000 Ada"),
    _smi("RTX-5880-Ada", 46068, 48, "RTX 5880 Ada Generation"),
    _nominal("NVIDIA", "RTX-5000-Ada", 32, "RTX 5000 Ada Generation"),
    _nominal("NVIDIA", "RTX-4500-Ada", 24, "RTX 4500 Ada Generation"),
    _smi("RTX-4000-Ada", 20475, 20, "RTX 4000 SFF Ada Generation", "RTX 4000 Ada Generation"),
    _nominal("NVIDIA", "RTX-2000-Ada", 16, "RTX 2000 Ada Generation"),
    _smi("RTX-A6000", 49140, 48, "RTX A6000", "A6000"),
    _nominal("NVIDIA", "RTX-A5500", 24, "A5500"),
    _smi("RTX-A5000", 24564, 24, "RTX A5000", "A5000"),
    _smi("RTX-A4500", 20470, 20, "RTX A4500", "A4500"),
    _smi("RTX-A4000", 16376, 16, "RTX A4000", "A4000"),
    _smi("RTX-A2000-12GB", 12282, 12, "RTX A2000 12GB"),
    _smi("Quadro-RTX-8000", 49152, 48, "Quadro RTX 8000", "RTX 8000"),
    _nominal("NVIDIA", "Quadro-RTX-6000", 24),
    _smi("TITAN-RTX", 24576, 24, "TITAN RTX"),
    # GeForce
    _smi("RTX-5090", 32607, 32, "", "5090"),
    _smi("RTX-5090-Laptop", 24463, 24, "RTX PRO 5000 Blackwell Generation Laptop GPU", "RTX 5090 Laptop GPU"),
    _smi("RTX-5080", 16303, 16, "", "5080", "RTX 5080 Laptop GPU"),
    _smi("RTX-5070-Ti", 16303, 16, "", "5070 Ti"),
    _smi("RTX-5070-Ti-Laptop", 12227, 12, "GeForce RTX 5070 Ti Laptop GPU"),
    _smi("RTX-5070", 12227, 12, "", "5070"),
    _smi("RTX-5070-Laptop", 8151, 8, "GeForce RTX 5070 Laptop GPU"),
    _smi("RTX-5060-Ti-16GB", 16311, 16, "GeForce RTX 5060 Ti, 16 GB"),
    _nominal("NVIDIA", "RTX-5060-Ti-8GB", 8),
    _smi("RTX-5060", 8151, 8, "", "5060", "RTX 5060 Laptop GPU"),
    _smi("RTX-5050", 8151, 8, "", "RTX 5050 Laptop GPU"),
    _smi("RTX-4090", 24564, 24, "", "4090"),
    _smi("RTX-4090-Laptop", 16376, 16, "GeForce RTX 4090 Laptop GPU"),
    _smi("RTX-4080", 16376, 16, "", "4080", "RTX 4080 Super"),
    _nominal("NVIDIA", "RTX-4080-Laptop", 12, "GeForce RTX 4080 Laptop GPU"),
    _smi("RTX-4070-Ti-Super", 16376, 16, "", "4070 Ti Super"),
    _smi("RTX-4070-Ti", 12282, 12, "", "4070 Ti"),
    _smi("RTX-4070", 12282, 12, "", "4070", "RTX 4070 Super"),
    _smi("RTX-4070-Laptop", 8188, 8, "GeForce RTX 4070 Laptop GPU"),
    _smi("RTX-4060-Ti-16GB", 16380, 16, "GeForce RTX 4060 Ti, 16 GB"),
    _nominal("NVIDIA", "RTX-4060-Ti-8GB", 8),
    _smi("RTX-4060", 8188, 8, "", "4060", "RTX 4060 Laptop GPU"),
    _nominal("NVIDIA", "RTX-4050-Laptop", 6, "RTX 4050 Laptop GPU", "RTX 4050"),
    _nominal("NVIDIA", "RTX-3090-Ti", 24, "3090 Ti"),
    _smi("RTX-3090", 24576, 24, "", "3090"),
    _smi("RTX-3080-Ti", 12288, 12, "", "3080 Ti"),
    _nominal("NVIDIA", "RTX-3080-12GB", 12),
    _smi("RTX-3080-10GB", 10240, 10, "GeForce RTX 3080", "3080"),
    _smi("RTX-3080-Laptop", 16384, 16, "GeForce RTX 3080 Laptop GPU"),
    _nominal("NVIDIA", "RTX-3070-Ti", 8, "3070 Ti"),
    _nominal("NVIDIA", "RTX-3070", 8, "3070"),
    _nominal("NVIDIA", "RTX-3060-Ti", 8, "3060 Ti"),
    _smi("RTX-3060", 12288, 12, "", "3060", "RTX-3060-12GB"),
    _smi("RTX-3060-Laptop", 6144, 6, "GeForce RTX 3060 Laptop GPU"),
    _nominal("NVIDIA", "RTX-3050-8GB", 8),
    _smi("RTX-3050-6GB", 6144, 6, "GeForce RTX 3050 6GB"),
    _smi("RTX-2080-Ti", 11264, 11, "", "2080 Ti"),
    _nominal("NVIDIA", "RTX-2080", 8, "RTX 2080 Super"),
    _smi("RTX-2070", 8192, 8, "GeForce RTX 2070 SUPER", "RTX 2070"),
    _nominal("NVIDIA", "RTX-2060-12GB", 12),
    _nominal("NVIDIA", "RTX-2060-6GB", 6),
    _smi("GTX-1080-Ti", 11264, 11, "", "1080 Ti"),
)

_AMD = (
    _amd("MI355X", 288, "AMD Instinct MI355X"),
    _amd("MI350X", 288, "AMD Instinct MI350X"),
    _amd("MI325X", 256, ""),
    _amd("MI300X", 192, "AMD Instinct MI300X (github.com/ROCm/legacy-rocm-build/issues/4750)", "MI300X OAM"),
    _nominal("AMD", "MI300A", 128),
    _amd("MI250X", 64, "one of the two dies, which are two devices", "MI250X GCD", "MI250"),
    _amd("MI210", 64, ""),
    _amd("MI100", 32, ""),
    _amd("MI50-32GB", 32, "AMD Instinct MI50 32GB", "MI60"),
    _amd("W7900", 48, "AMD Radeon PRO W7900", "Radeon PRO W7900"),
    _amd("W7800", 32, "", "Radeon PRO W7800"),
    _amd("R9700", 32, "", "Radeon AI PRO R9700"),
    _amd("RX-9070-XT", 16, "", "RX 9070", "9070 XT"),
    _amd("RX-9060-XT-16GB", 16, ""),
    _amd("RX-7900-XTX", 24, "AMD Radeon RX 7900 XTX", "7900XTX"),
    _amd("RX-7900-XT", 20, "", "7900XT"),
    _amd("RX-7900-GRE", 16, ""),
    _amd("RX-7800-XT", 16, "", "7800XT"),
    _amd("RX-7600-XT", 16, ""),
    _amd("RX-6900-XT", 16, "AMD Radeon RX 6900 XT", "RX 6950 XT"),
    _amd("RX-6800-XT", 16, "AMD Radeon RX 6800 XT", "RX 6800"),
)

_INTEL = (
    GPU("Gaudi-3", 131072 * MIB, "hl-smi prints 131072MiB for HL-325L", "Intel", 128, ("HL-325L", "Gaudi3")),
    GPU("Gaudi-2", 98304 * MIB, "hl-smi prints 98304MiB for HL-225", "Intel", 96, ("HL-225", "Gaudi2")),
    _nominal("Intel", "Max-1550", 128, "Data Center GPU Max 1550", "Ponte Vecchio"),
    _nominal("Intel", "Max-1100", 48, "Data Center GPU Max 1100"),
    _nominal("Intel", "Arc-Pro-B70", 32),
    _nominal("Intel", "Arc-Pro-B60", 24),
    GPU("Arc-B580", 12168933376, "torch.xpu: total_memory 12168933376", "Intel", 12, ("Arc B580 Graphics", "B580")),
    GPU("Arc-A770", 15473 * MIB, "torch.xpu: total_memory=15473MB", "Intel", 16, ("Arc A770 Graphics", "A770")),
)

_UNIFIED = {  # sizes in GB that each chip is sold with
    "M1": (8, 16),
    "M1-Pro": (16, 32),
    "M1-Max": (32, 64),
    "M1-Ultra": (64, 128),
    "M2": (8, 16, 24),
    "M2-Pro": (16, 32),
    "M2-Max": (32, 64, 96),
    "M2-Ultra": (64, 128, 192),
    "M3": (8, 16, 24),
    "M3-Pro": (18, 36),
    "M3-Max": (36, 48, 64, 96, 128),
    "M3-Ultra": (96, 256, 512),
    "M4": (16, 24, 32),
    "M4-Pro": (24, 48, 64),
    "M4-Max": (36, 48, 64, 128),
    "M5": (16, 24, 32),
}


def _apple(chip: str, size: int) -> GPU:
    """A Mac: Metal's recommendedMaxWorkingSetSize is two thirds of the memory up to 32 GB and three quarters above.

    llama.cpp prints it at start: 21845.34 MiB of 32 GB, 28991.03 MB (27648 MiB) of 36 GB, 51539.61 MB (49152 MiB)
    of 64 GB. macOS 26 grants more (74 % of 16 GB, 84 % of 128 GB); the older, smaller share is what every Mac has,
    and `sysctl iogpu.wired_limit_mb` raises it.
    """
    memory = size * GIB * 2 // 3 if size <= 32 else size * GIB * 3 // 4
    share = "two thirds" if size <= 32 else "three quarters"
    source = f"Metal's recommendedMaxWorkingSetSize by default: {share} of {size} GB of unified memory"
    return GPU(f"{chip}-{size}GB", memory, source, "Apple", size)


_APPLE = tuple(_apple(chip, size) for chip, sizes in _UNIFIED.items() for size in sizes)

_GOOGLE = (
    _nominal("Google", "TPU-v7", 192, "Ironwood", "TPU7x"),
    _xla("TPU-v6e", 3125, 32, "Trillium"),
    _xla("TPU-v5p", 9574, 95),
    _xla("TPU-v5e", 1575, 16, "TPU v5 lite"),
    _xla("TPU-v4", 3075, 32),
)

GPUS: tuple[GPU, ...] = _NVIDIA + _AMD + _INTEL + _APPLE + _GOOGLE

_MAKERS = frozenset({"nvidia", "geforce", "tesla", "amd", "instinct", "radeon", "intel", "apple", "google", "gpu"})


def _fold(name: str) -> str:
    """A name without case, punctuation and makers: "NVIDIA GeForce RTX 4090" and "rtx-4090" are one.

    >>> _fold("NVIDIA GeForce RTX 4090")
    'rtx4090'
    """
    return "".join(word for word in re.split(r"[^a-z0-9]+", name.lower()) if word not in _MAKERS)


@cache
def _index() -> dict[str, GPU]:
    """Every card by every folded name it has."""
    return {_fold(name): gpu for gpu in GPUS for name in (gpu.name, *gpu.aliases)}


def find_gpu(name: str) -> GPU:
    """The card of that name, in any case, with or without its maker.

    A name that several cards share ("A100", with 40 or 80 GB) is refused with the choices.

    >>> find_gpu("nvidia rtx 4090").memory // 2**20
    24564
    """
    index = _index()
    folded = _fold(name)
    found = index.get(folded)
    if found is not None:
        return found
    sizes = re.compile(re.escape(folded) + r"\d+gb")
    choices = tuple(gpu.name for gpu in GPUS if folded and sizes.fullmatch(_fold(gpu.name)))
    if choices:
        raise UnknownName(f"GPU '{name}' comes with different memory: say {', '.join(choices)}", "gpu", choices)
    close = tuple(dict.fromkeys(index[each].name for each in nearest(folded, index, most=8)))[:5]
    hint = f"did you mean {', '.join(close)}?" if close else "/api/config/options lists the catalogue"
    raise UnknownName(f"unknown GPU '{name}'; {hint}", "gpu", close)
