"""From a model and batches to a trained one: loop, engine, schedule, checkpoints. Knows no machines."""
