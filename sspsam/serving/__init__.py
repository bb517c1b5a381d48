"""The predictor behind HTTP: `sspsam.serving.app.create_app` is the application, `sspsam serve` runs it."""
