"""How metrics of AE and of CLIP + SSL + AE grow with compute, data and decoder: the VTP paper's figures."""
