"""From the Hub to the Hub: what a folder publishes, its card, the push, and converters from other layouts."""
