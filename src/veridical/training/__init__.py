"""Training: what is minimised (objectives, sizes), how (loop, optimisation), and what survives a kill."""
