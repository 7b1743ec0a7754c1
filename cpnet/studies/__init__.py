"""What the paper does with trained nets: ablations, its figures, images alike."""
