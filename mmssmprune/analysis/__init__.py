"""Measuring: FLOPs, latency, accuracy, and the comparison that tabulates and draws them."""
