"""`MMCoATrainer` and what it is made of: the batch, its attacks, the frozen teacher, processes and checkpoints."""
