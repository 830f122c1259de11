"""Whether attributions rank what matters: rankings, unmasking, retraining, DiffROAR, ROAR and KAR."""
