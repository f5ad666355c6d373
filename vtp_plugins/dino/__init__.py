"""Self-distillation of class tokens between crops; the head and the loss over prototypes of `mim` too."""
