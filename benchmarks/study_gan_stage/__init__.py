"""When an adversarial loss should train a transformer's decoder: never, always, or in a second stage."""
