"""Nouns, states and their allowed moves, ids, money, errors, clock, specs. Imports nothing of ours."""
