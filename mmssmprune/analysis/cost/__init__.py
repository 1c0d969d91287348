"""What models cost: every operation of a forward pass, priced by a named convention."""
