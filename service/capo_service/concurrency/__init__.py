"""Background tasks, the CPU thread, and garbage-collector tuning."""
