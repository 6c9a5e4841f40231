"""The OpenAI API and the admin API: thin."""
