"""From a parsed request to credit: docs/architecture.md draws the path."""
