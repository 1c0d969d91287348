"""The comparison of dense and pruned models that tools/compare.py makes."""
