"""Every rank's word reaches all ranks one step later."""

from functools import partial

import numpy as np
import torch.distributed

from pipeline.train.exchange import Exchange, Word
from tests.train import gang


def _talk(steps):
    """What this rank heard in every step; in step s rank r says that it worked for 10 s + r seconds."""
    rank = torch.distributed.get_rank()
    heard = []
    with Exchange() as exchange:
        for step in range(steps):
            known = exchange.tell(Word(stop=float(step == 2 and rank == 1), own_s=10 * step + rank, waited_s=rank))
            torch.distributed.barrier()  # as a step has collectives of its own
            heard.append(None if known is None else (known.stop, known.save, known.own_R.tolist()))
    return heard


def test_all_ranks_hear_the_same_one_step_later(tmp_path):
    heard = gang.run(partial(_talk, 5), world=3, folder=tmp_path)
    assert heard[0] == heard[1] == heard[2]
    assert heard[0][0] is None
    assert [what[2] for what in heard[0][1:]] == [[10.0 * s, 10.0 * s + 1, 10.0 * s + 2] for s in range(4)]
    assert [what[0] for what in heard[0][1:]] == [False, False, True, False], "rank 1 asked to stop after step 2"


def test_a_process_alone_hears_itself():
    with Exchange() as exchange:
        assert exchange.tell(Word(save=1.0)) is None
        known = exchange.tell(Word(own_s=2.0))
        assert known.save
        assert not known.stop
        known = exchange.tell(Word())
        np.testing.assert_array_equal(known.own_R, [2.0])
