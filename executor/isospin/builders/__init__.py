"""Scripts that build engines, as input files of actions. Nothing of the daemon imports them."""
