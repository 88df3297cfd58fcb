"""The copy of what a rank holds: valid safetensors, in memory that is used again."""

import errno
import os

import pytest
import safetensors.torch
import torch
import xxhash

from pipeline import storage
from pipeline.train.fragment import MASTER, Fragment
from pipeline.train.snapshot import Snapshot

MIB = 2**20


def state(*, seed: int = 0, sizes: tuple[int, ...] = (7, 1, 1000)) -> list[Fragment]:
    draw = torch.Generator().manual_seed(seed)
    return [Fragment(f"w{i}", MASTER, 3 * i, torch.randn(size, generator=draw)) for i, size in enumerate(sizes)]


def test_the_file_is_one_that_the_library_of_safetensors_reads(tmp_path):
    held, snapshot, path = state(), Snapshot(), tmp_path / "a.safetensors"
    snapshot.take(held)
    storage.upload(snapshot.path, str(path))
    data = path.read_bytes()
    assert (len(data), xxhash.xxh3_128_hexdigest(data)) == (snapshot.num_bytes, snapshot.digest())
    loaded = safetensors.torch.load_file(path)
    assert set(loaded) == {"w0|master|0", "w1|master|3", "w2|master|6"}
    for fragment, (name, kind, start, count, offset) in zip(held, snapshot.pieces, strict=True):
        assert (name, kind, start, count) == (fragment.name, MASTER, fragment.start, fragment.values.numel())
        assert torch.equal(loaded[f"{name}|{kind}|{start}"], fragment.values)
        assert data[offset : offset + 4 * count] == fragment.values.numpy().tobytes()


def test_what_changes_afterwards_is_not_in_the_copy():
    held, snapshot = state(), Snapshot()
    snapshot.take(held)
    before = snapshot.digest()
    held[2].values.zero_()
    assert snapshot.digest() == before
    snapshot.take(held)
    assert snapshot.digest() != before


def test_values_are_kept_in_fp32_whatever_they_were(tmp_path):
    half = Fragment("w", MASTER, 0, torch.tensor([1.0, 1 / 3], dtype=torch.bfloat16).requires_grad_())
    snapshot = Snapshot()
    snapshot.take([half])
    values = safetensors.torch.load(snapshot.path.read_bytes())["w|master|0"]
    assert values.dtype == torch.float32
    assert torch.equal(values, half.values.detach().float())


def test_the_memory_is_the_same_from_save_to_save_unless_the_state_has_another_size():
    snapshot = Snapshot()
    snapshot.take(state())
    memory = snapshot._bytes.data_ptr()
    snapshot.take(state(seed=1))
    assert snapshot._bytes.data_ptr() == memory
    snapshot.take(state(seed=1, sizes=(3, 5)))
    assert snapshot.path.stat().st_size == snapshot.num_bytes
    assert len(safetensors.torch.load(snapshot.path.read_bytes())) == 2


def test_what_was_reserved_in_vain_is_given_back():
    snapshot = Snapshot()
    snapshot.reserve(3 * MIB)
    assert allocated_bytes(snapshot) == 3 * MIB
    snapshot.take(state(sizes=(MIB // 4,)))
    assert allocated_bytes(snapshot) < 1.1 * MIB
    assert snapshot.path.stat().st_size == snapshot.num_bytes


def test_memory_that_is_not_to_be_had_is_told_as_what_it_is(monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(RuntimeError, match=r"needs 2\.5 GB of host memory in every worker, and there is no room"):
        Snapshot().reserve(2_500_000_000)


def test_the_state_is_in_memory_once_more_while_it_is_written(tmp_path):
    """And no third time: neither by the copy nor by the writing."""
    held, snapshot = state(sizes=(16 * MIB,)), Snapshot()
    snapshot.take(held)
    size, before = snapshot.num_bytes, peak_bytes(reset=True)
    snapshot.take(held)
    snapshot.digest()
    storage.upload(snapshot.path, str(tmp_path / "a.safetensors"))
    assert allocated_bytes(snapshot) <= 1.01 * size
    assert peak_bytes() - before < 0.1 * size


def test_a_fragment_that_is_held_twice_is_an_error_of_ours():
    with pytest.raises(AssertionError, match="the same fragment twice"):
        Snapshot().take(state()[:1] * 2)


def test_nothing_stays_open():
    before = set(os.listdir("/proc/self/fd"))
    snapshot = Snapshot()
    snapshot.take(state())
    del snapshot
    assert set(os.listdir("/proc/self/fd")) == before


def allocated_bytes(snapshot: Snapshot) -> int:
    return 512 * snapshot.path.stat().st_blocks


def peak_bytes(*, reset: bool = False) -> int:
    """The most memory this process has had, of its own and shared, since the last reset."""
    if reset:
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")
    with open("/proc/self/status") as file:
        (line,) = (line for line in file if line.startswith("VmHWM"))
    return 1024 * int(line.split()[1])
