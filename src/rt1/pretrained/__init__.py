"""Google's and ImageNet's weights, converted."""
