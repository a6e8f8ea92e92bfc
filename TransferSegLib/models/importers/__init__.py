"""Models of other tools, converted to the product's own format."""
