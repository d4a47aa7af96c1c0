"""The HTTP port: metrics, health, status."""
