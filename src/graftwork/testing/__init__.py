"""Fakes shipped to users: fake clock, simulated provider, fake engine."""
