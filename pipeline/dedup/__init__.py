"""Which images of one data set are, or look like, images of another. Knows no model and no stage."""
