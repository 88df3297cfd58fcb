"""Weights of other projects become ours, and ours theirs: timm, Hugging Face, the papers' JAX code, graphs.

Here are names, layouts and formats; nothing here knows stages, data or the command line. timm and transformers are
needed for none of it: they are what the tests compare with.
"""
