"""The reward service: FastAPI hosting a generative process reward model (GenPRM)."""
