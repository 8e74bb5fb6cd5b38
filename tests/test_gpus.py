"""The GPU catalogue: what a driver reports, and how a card is found by the names people use."""

from collections import Counter

import pytest

from calculator.errors import UnknownName
from calculator.gpus import GPUS, _fold, find_gpu
from calculator.units import GIB, MIB

MIB_REPORTED = [  # totals as nvidia-smi prints them
    ("H100-80GB", 81559),
    ("A100-40GB", 40960),
    ("A100-80GB", 81920),
    ("B200", 183359),
    ("H200", 143771),
    ("L4", 23034),
    ("L40S", 46068),
    ("T4", 15360),
    ("RTX-5090", 32607),
    ("RTX-4090", 24564),
    ("RTX-3090", 24576),
    ("MI300X", 196592),  # 206,141,652,992 bytes
    ("TPU-v6e", 32000),  # 31.25 GiB
    ("M3-Max-36GB", 27648),  # three quarters of 36,864
    ("M2-24GB", 16384),  # two thirds of 24,576
]


@pytest.mark.parametrize(("name", "mib"), MIB_REPORTED, ids=[name for name, _ in MIB_REPORTED])
def test_memory_is_the_drivers_figure(name: str, mib: int) -> None:
    assert find_gpu(name).memory // MIB == mib


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("h100-80gb", "H100-80GB"),
        ("H100", "H100-80GB"),
        ("NVIDIA H100 80GB HBM3", "H100-80GB"),
        ("NVIDIA A100-SXM4-80GB", "A100-80GB"),
        ("NVIDIA GeForce RTX 4090", "RTX-4090"),
        ("rtx4090", "RTX-4090"),
        ("4090", "RTX-4090"),
        ("Tesla T4", "T4"),
        ("AMD Instinct MI300X", "MI300X"),
        ("Radeon RX 7900 XTX", "RX-7900-XTX"),
        ("Apple M4 Max 128GB", "M4-Max-128GB"),
        ("NVIDIA RTX 6000 Ada Generation", "RTX-6000-Ada"),
        ("NVIDIA RTX A6000", "RTX-A6000"),
        ("gaudi2", "Gaudi-2"),
        ("TPU v5e", "TPU-v5e"),
    ],
)
def test_names_are_taken_as_people_write_them(said: str, meant: str) -> None:
    assert find_gpu(said).name == meant


def test_every_row_is_whole_and_no_name_means_two_cards() -> None:
    assert len(GPUS) >= 40
    folded = Counter(name for gpu in GPUS for name in {_fold(each) for each in (gpu.name, *gpu.aliases)})
    assert [name for name, times in folded.items() if times > 1] == []
    for gpu in GPUS:
        assert find_gpu(gpu.name) is gpu
        assert gpu.source and gpu.vendor
        # a driver reports at most what is sold, give or take rounding, and never much less; Macs share theirs
        least = 0.62 if gpu.vendor == "Apple" else 0.9
        assert least * gpu.nominal * 1e9 <= gpu.memory <= 1.02 * gpu.nominal * GIB, gpu.name


def test_a_name_of_several_cards_is_refused_with_the_choices() -> None:
    with pytest.raises(UnknownName, match="A100-80GB, A100-40GB") as raised:
        find_gpu("A100")
    assert raised.value.suggestions == ("A100-80GB", "A100-40GB")
    with pytest.raises(UnknownName, match="M4-Pro-24GB"):
        find_gpu("M4 Pro")


def test_an_unknown_card_brings_the_nearest() -> None:
    with pytest.raises(UnknownName, match="did you mean") as raised:
        find_gpu("RTX 4099")
    assert "RTX-4090" in raised.value.suggestions
    assert raised.value.field == "gpu"
    with pytest.raises(UnknownName, match="options"):
        find_gpu("")
