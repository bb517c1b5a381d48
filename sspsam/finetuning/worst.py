class WorstOptions: pass
def write_worst(*a): pass
