"""A checkpoint is copied from the device into page-locked memory, and read back onto it."""

import torch

from pipeline import storage
from pipeline.train import checkpoint
from pipeline.train.checkpoint import File, Manifest
from pipeline.train.fragment import MASTER, Fragment
from pipeline.train.snapshot import Snapshot
from pipeline.train.source import Source


def test_what_is_copied_is_what_was_on_the_device_and_comes_back_to_it(device, tmp_path):
    draw = torch.Generator(device).manual_seed(0)
    held = [Fragment(f"w{i}", MASTER, 0, torch.randn(1_000_003, generator=draw, device=device)) for i in range(3)]
    expected, snapshot = [fragment.values.clone() for fragment in held], Snapshot()
    for _ in range(2):  # the second time into the same memory
        snapshot.take(held)
    for fragment in held:
        fragment.values.zero_()
    file = File("a-0.safetensors", snapshot.num_bytes, snapshot.digest())
    storage.upload(snapshot.path, storage.join(checkpoint.folder(str(tmp_path), 1), file.name))
    fragments = [(name, state, start, count, 0, offset) for name, state, start, count, offset in snapshot.pieces]
    shapes = {fragment.name: (1_000_003,) for fragment in held}
    manifest = checkpoint.publish(str(tmp_path), Manifest(1, "run", shapes, [file], fragments, 1, 1, "a"))
    checkpoint.verify(str(tmp_path), manifest)
    Source(str(tmp_path), manifest).read(held)
    for fragment, values in zip(held, expected, strict=True):
        assert torch.equal(fragment.values, values)


def test_the_memory_of_the_copy_is_page_locked(gpu):
    snapshot = Snapshot()
    snapshot.take([Fragment("w", MASTER, 0, torch.ones(1000, device=gpu))])
    assert snapshot._bytes.is_pinned()
