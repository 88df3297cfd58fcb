"""What is trained: the ViT, its variants, counts and weights, for one device. Knows no data and no engine."""
