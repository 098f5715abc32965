"""FLOPs, bytes and launches of a draft, and the peak rates of a GPU; pure arithmetic.

config_json.py   a model's `config.json` under one set of names
shape.py         the sizes of a draft, and what a token or a pass of it costs, by part and vocabulary size
hardware.py      peak rates of a device
"""
