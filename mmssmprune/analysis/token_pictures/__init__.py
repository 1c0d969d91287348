"""Pictures of what pruning does to one image: kept tokens, importance, restored features, predictions."""
