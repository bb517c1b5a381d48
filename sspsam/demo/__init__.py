"""A page in the browser on which people try a model: an image, expressions, masks. `sspsam demo` serves it."""
