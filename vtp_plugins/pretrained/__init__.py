"""Where the weights of pretrained networks come from; used by losses, encoders and evaluators."""
