"""From a model and inputs to a map: gradients, path integrals, their noise averages and their axioms."""
