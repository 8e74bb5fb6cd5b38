"""One class a kind of layer: the tensors it stores, what it caches, and its forward pass as a program on the tape."""
