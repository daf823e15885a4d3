"""Adversarial training: `MMCoATrainer` with its attacks, teacher, processes, checkpoints, tracking and pushes."""
