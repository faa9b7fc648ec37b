"""Small deliberate faults of the product, and the proof that the model test notices each."""
