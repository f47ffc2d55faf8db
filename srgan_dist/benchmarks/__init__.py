"""How fast this machine runs the parts of a training."""
