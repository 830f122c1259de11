"""Balls around inputs, the one ascent loop in them, and what climbs: predictions and explanations."""
