"""Everything measured about one model on one data set, as one result object."""
