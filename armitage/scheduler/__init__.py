"""Schedules actions: a sans-io core (events in, commands out) and the asyncio shell around it."""
