"""The adversarial objective: a critic, and a loss of the decoder."""
