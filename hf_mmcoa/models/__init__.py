"""Everything that depends on transformers' dual encoders: embeddings, architectures, trainable weights and adapters.

A new transformers release or a new architecture is a change in this room alone.
"""
