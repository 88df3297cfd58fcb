"""Where the time of a run went, in examples that were reckoned by hand."""

import pytest

from pipeline.train.goodput import Account, Goodput, account


def event(kind: str, time: float, step: int = 0, **details) -> dict:
    return {"event": kind, "time": time, "step": step, **details}


def opened(time: float, *, steps: int = 300) -> dict:
    return event("opened", time, steps=steps)


def steps(time: float, step: int, *, wait_s: float = 0.0) -> dict:
    return event("steps", time, step, wait_s=wait_s)


def checkpoint(time: float, step: int, *, stall_s: float) -> dict:
    return event("checkpoint", time, step, stall_s=stall_s)


QUIET = (
    opened(1000),
    event("begun", 1020),  # 20 s for machines and weights
    steps(1120, 100, wait_s=6),  # a step a second
    checkpoint(1123, 100, stall_s=4),
    steps(1224, 200, wait_s=2),
    event("closed", 1230, 200),  # weights are exported
)


def test_an_undisturbed_run_loses_what_it_waits_for_and_its_beginning_and_end():
    found = account(QUIET)
    assert found == Goodput(
        useful_s=(100 - 6 - 4) + (104 - 2), wait_s=8, stall_s=4, starting_s=20, ending_s=6, step=200, steps=300
    )
    assert found.wall_s == 230
    assert found.goodput == 192 / 230


def test_a_gang_killed_seven_steps_after_a_checkpoint_does_seven_steps_twice():
    found = account(
        [
            opened(0),
            event("begun", 10),
            steps(60, 50),  # a step a second
            checkpoint(60, 50, stall_s=0),
            steps(67, 57),  # killed; the loss is noticed, a gang comes together and loads step 50
            event("begun", 97, 50),
            steps(147, 100),
            event("closed", 147, 100),
        ]
    )
    assert found == Goodput(useful_s=50 + 50, redone_s=7, starting_s=10 + 30, step=100, steps=300, restarts=1)
    assert found.goodput == 100 / 147


def test_steps_that_nobody_heard_of_are_part_of_the_restart():
    found = account([opened(0), event("begun", 10), steps(60, 50), event("begun", 97, 50), steps(147, 100)])
    assert (found.redone_s, found.starting_s, found.restarts) == (0, 10 + 37, 1)


def test_a_driver_lost_for_an_hour_was_down_for_an_hour_and_its_successor_is_a_resumption():
    found = account(
        [
            opened(0),
            event("begun", 10),
            steps(110, 100),
            steps(120, 110),  # the last that was written
            opened(3720),
            event("begun", 3730, 100),
            steps(3830, 200),
            event("closed", 3835, 200),
        ]
    )
    expected = Goodput(useful_s=200, redone_s=10, starting_s=20, ending_s=5, down_s=3600, step=200, steps=300)
    assert found == Goodput(**{**vars(expected), "resumptions": 1})
    assert found.goodput == 200 / 3835


def test_a_rollback_redoes_steps_and_is_no_restart():
    found = account(
        [
            opened(0),
            event("begun", 0),
            steps(100, 100),
            steps(110, 110),
            *(event("skipped", 110, step) for step in (108, 109, 110)),
            event("rolled back", 110, 110),
            event("begun", 115, 100),
            steps(135, 120),  # of which 108 to 110 are passed over
            *(event("passed over", 135, step) for step in (108, 109, 110)),
        ]
    )
    assert found == Goodput(
        useful_s=100 + 17, skipped_s=3, redone_s=10, starting_s=5, step=120, steps=300, skipped=3, rollbacks=1
    )


def test_of_a_stretch_that_is_partly_lost_its_steps_say_how_much():
    found = account([opened(0), event("begun", 0), steps(40, 20, wait_s=8), event("begun", 50, 15)])
    assert found == Goodput(useful_s=24, wait_s=6, redone_s=10, starting_s=10, step=15, steps=300, restarts=1)


def test_falling_back_past_several_stretches_loses_all_of_them():
    rows = [opened(0), event("begun", 0), steps(10, 10), steps(20, 20), steps(30, 30)]
    assert account([*rows, event("begun", 30, 0)]).redone_s == 30
    assert account([*rows, event("begun", 30, 10)]).redone_s == 20


def test_a_skipped_step_is_counted_once_though_it_is_done_again():
    skipped = event("skipped", 20, 18)
    found = account(
        [opened(0), event("begun", 0), steps(20, 20), skipped, skipped, event("begun", 20, 10), steps(30, 20), skipped]
    )
    assert (found.skipped, found.skipped_s, found.useful_s) == (1, 1, 19)


def test_a_stall_is_never_more_than_the_time_its_steps_took():
    found = account([opened(0), event("begun", 0), steps(10, 10, wait_s=99), checkpoint(10, 10, stall_s=99)])
    assert (found.wait_s, found.stall_s, found.useful_s, found.wall_s) == (10, 0, 0, 10)


def test_the_last_checkpoint_belongs_to_the_last_steps():
    found = account([opened(0), event("begun", 0), steps(10, 10), steps(13, 10), checkpoint(13, 10, stall_s=3)])
    assert found == Goodput(useful_s=10, stall_s=3, step=10, steps=300)


def test_what_is_no_matter_of_time_is_counted():
    found = account([opened(0), event("straggler", 5), event("straggler", 6), event("hang", 7)])
    assert found == Goodput(steps=300, others={"straggler": 2, "hang": 1})


def test_a_clock_that_went_back_takes_no_time_away():
    found = account([opened(1000), event("begun", 1000), steps(1010, 10), opened(400), event("begun", 405, 10)])
    assert found == Goodput(useful_s=10, starting_s=5, step=10, steps=300, resumptions=1)


def test_before_any_time_has_passed_goodput_is_nothing():
    assert account([]).goodput == 0
    assert account([opened(5)]).goodput == 0


ROUGH = [
    opened(0),
    event("begun", 7),
    steps(27, 20, wait_s=1),
    checkpoint(28, 20, stall_s=2),
    event("skipped", 30, 19),
    steps(50, 40),
    event("straggler", 50, 40),
    event("begun", 60, 20),
    steps(80, 40),
    opened(100),
    event("begun", 110, 20),
    steps(130, 40),
    event("closed", 131, 40),
]


@pytest.mark.parametrize("cut", range(1, len(ROUGH)))
def test_an_account_goes_on_from_what_it_saved(cut):
    kept = Account()
    for row in ROUGH[:cut]:
        kept.add(row)
    saved = kept.saved()
    assert figures(account([saved])) == pytest.approx(figures(kept.goodput))
    late, whole = figures(account([saved, *ROUGH[cut:]])), figures(account(ROUGH))
    assert whole["wall_s"] == 131
    assert late == pytest.approx(whole, abs=3)  # of what was summed up, a part is lost by its share of steps


def figures(found: Goodput) -> dict[str, float]:
    rest = {name: value for name, value in vars(found).items() if name != "others"}
    return {**rest, **found.others, "wall_s": found.wall_s}
