"""Adapters on their way out: merged, as GGUF, for Ollama and LM Studio, and to the Hugging Face Hub."""
