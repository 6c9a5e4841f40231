"""What travels: request bodies and answers, kept apart from the nouns so that neither shapes the other."""
