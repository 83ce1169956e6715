"""Training: one loop (`stage.fit`) for both stages, in one process or in many."""
