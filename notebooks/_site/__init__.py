"""Extensions of the documentation's own."""
