"""Expression -> token ids -> text features."""
