"""The armitage command."""
