"""Routes of our own API, under ``/api``: what OpenAI's has no words for. The CLI uses nothing else."""
