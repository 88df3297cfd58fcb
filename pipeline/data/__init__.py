"""From shards on storage to batches in memory: order, format, decoding, augmentation."""
