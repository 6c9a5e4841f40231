"""One run on several processes: who is who, how they are started, what each holds, and what they agree on."""
