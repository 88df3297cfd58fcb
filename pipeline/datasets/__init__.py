"""Where labelled images come from: one file per source format or benchmark. Knows neither shards nor models."""
