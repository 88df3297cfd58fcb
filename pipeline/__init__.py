"""What is computed: data, models, training, evaluation. Knows nothing of clusters or command lines."""
