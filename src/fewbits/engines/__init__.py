"""Floor 6: what carries frames. The algorithms below never know."""
