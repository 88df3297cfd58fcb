"""Tars as strangers write them: their members, and what names in them mean. Nothing is extracted."""
