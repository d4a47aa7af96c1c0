"""Armitage's own sandbox launcher: a small static C program, and how to talk to it."""
