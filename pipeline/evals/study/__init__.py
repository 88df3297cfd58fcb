"""Studies of pre-training: what its size, its data and its compute are worth on a task. Knows no stage, no storage.

`point` pairs pre-trainings with what was measured of them, `figure` draws figures 3 to 5 of arXiv 2010.11929 of these.
"""
