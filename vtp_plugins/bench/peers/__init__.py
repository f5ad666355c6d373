"""What other libraries offer for the same job, as variants of a case; one file a subject."""
