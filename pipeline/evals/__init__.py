"""How good are features and logits: one evaluator per file, all exact. Knows arrays; no images, models or machines."""
