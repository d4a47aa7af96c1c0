"""The witness: what fetches on behalf of actions, and keeps evidence of every exchange."""
