"""Distance in the features of a pretrained network: LPIPS and timm networks."""
