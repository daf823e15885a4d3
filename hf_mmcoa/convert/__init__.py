"""Checkpoints of other repositories to `CLIPModel`, parity-checked, and back to OpenCLIP."""
