"""One file per experiment of the papers: what to train, what to measure, what was published."""
