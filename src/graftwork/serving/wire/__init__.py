"""OpenAI HTTP in front of any engine core: bodies in, tokens through, objects out. No torch."""
