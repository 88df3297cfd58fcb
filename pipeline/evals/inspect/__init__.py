"""What a ViT has learned, to be looked at: filters, positions, attention. One question a file; `figure` draws answers.

The figures are those of "An Image is Worth 16x16 Words" (arXiv 2010.11929): 7 left, 7 centre and 10, 7 right and 11, 6
and 14. Knows weights and tensors, but neither stages nor storage.
"""
