def finetuned_card(name, config, report): return ""
