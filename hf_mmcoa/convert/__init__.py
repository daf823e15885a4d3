"""Conversion of other repositories' checkpoints to `CLIPModel`, and back to OpenCLIP, with checked embeddings."""
