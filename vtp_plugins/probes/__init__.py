"""Feature vectors and scores of labelled images, for evaluators that classify."""
