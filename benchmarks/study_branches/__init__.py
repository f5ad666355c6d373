"""What deep and shallow layers of an encoder hold, alone and together: DINO-Tok's two branches, in small."""
