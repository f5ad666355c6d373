"""Vector quantisation: quantisers behind one protocol, and the bottleneck `vq`."""
