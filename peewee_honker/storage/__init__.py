"""Tables and tools on top of the adapter: the metagraph, and what is common to all stored models."""
