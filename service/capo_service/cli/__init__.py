"""The commands of the service, which `capo` runs: serve, key, prompt, check-alignment."""
