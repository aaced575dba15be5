"""What the service shows of itself: metrics, logs, traces, event-loop lag, the live view."""
