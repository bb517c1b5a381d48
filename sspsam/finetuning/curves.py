def save_curves(path, log, before): pass
