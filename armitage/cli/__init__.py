"""The armitage command; `entry.main` is its way in."""
