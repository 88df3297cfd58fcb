"""What the members of a gang do that read and do not train; a module that Ray's workers can import."""

import hashlib
import itertools
import os

from pipeline.data.plan import Plan
from pipeline.data.view import TrainView
from pipeline.train.part import Part
from pipeline.train.reading import Reading, open_reader

SIZES, GLOBAL_BATCH, STEPS, FROM = (31, 17, 40, 23, 40), 24, 36, 3
PLAN = Plan(SIZES, global_batch=GLOBAL_BATCH, seed=11, lanes=5, window=30)
ABOUT = {"split": "train", "view": TrainView(16, rand_augment=(2, 10)), "seed": 5, "mixup": 0.2}


def digest(batch) -> str:
    hashed = hashlib.sha256()
    for array in (batch.ids_B, batch.labels_B, batch.images_BHWC, batch.mixed_B):
        hashed.update(array.tobytes())
    return hashed.hexdigest()


def process_of(memory) -> int:
    return os.getpid()


def read(member, payload) -> int:
    """What a trainer does, without training; the ranks wait for each other at every step, as they would."""
    import torch.distributed

    uri, cache = payload
    processes = [host.ask(process_of).result() for host in member.hosts]
    member.send({"kind": "processes", "processes": processes, "mine": os.getpid()})
    reading = Reading(cache=cache, max_corrupt=1)
    part = Part(GLOBAL_BATCH, member.world_size, member.rank)
    reader, _ = open_reader([uri], order=PLAN, hosts=member.hosts, part=part, reading=reading, **ABOUT)
    with reader:
        for batch in itertools.islice(reader.batches(FROM), STEPS):
            member.send({"kind": "batch", "rank": member.rank, "step": batch.step, "digest": digest(batch)})
            torch.distributed.barrier()
        return len(reader.figures)
