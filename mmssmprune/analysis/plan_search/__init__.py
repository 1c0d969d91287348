"""The cheapest plan of a checkpoint within an allowed loss: what is tried, in which order, and what is told of it."""
