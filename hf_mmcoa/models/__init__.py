"""The only code that knows transformers' dual encoders: embeddings, architectures, what trains, adapters."""
